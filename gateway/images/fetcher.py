"""Fetches images by URL: from permitted addresses, with limits on time, bytes, redirects and concurrency.

This module does not look into the bytes. The content type is ignored; the decoder detects the format.
"""

import asyncio
import http.cookiejar
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import httpx

from gateway.allowed_hosts import AllowedHosts
from gateway.images.headers import ImageError, ImageTooLarge
from gateway.images.ssrf_guard import CONNECT_SECONDS, AddressForbidden, GuardedTransport, HostUnknown
from gateway.telemetry.tracing import traced

REDIRECTS = 5
"""Most redirects that are followed for one image."""

LONGEST_URL = 8192
"""Most characters of a URL."""

_SHOWN_CHARACTERS = 200
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "embedding-server", "Accept": "image/*", "Accept-Encoding": "identity"}


class FetchFailed(ImageError):
    """A URL could not be fetched, or gave no usable image; the message has the URL without its query."""


class FetchTooLarge(ImageTooLarge):
    """The image behind a URL is over a limit; the message has the URL without its query."""


class ImageFetcher:
    """Fetches images over a pool of connections, created and used in one running event loop.

    Args:
        allowed: The hosts and addresses that may be connected to.
        max_bytes: Limit for one image.
        timeout: Seconds for one image, redirects included.
        concurrency: Fetches at a time.
    """

    def __init__(self, allowed: AllowedHosts, *, max_bytes: int, timeout: float, concurrency: int) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._free = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(
            transport=GuardedTransport(allowed, concurrency),
            headers=_HEADERS,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            trust_env=False,
            # Cookies that a host sets on one caller's request must not be sent on another caller's.
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=())),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def fetch(self, text: str) -> AsyncIterator[bytes]:
        """Fetch a URL and yield its bytes.

        The context counts as a running fetch until it ends, so that the bytes in memory are bounded too. The
        URL is added to an ImageError raised inside the context, which comes from decoding the bytes.

        Raises:
            ImageError: The text is not a usable URL.
            FetchFailed, FetchTooLarge: With the URL and the reason.
        """
        url = parse(text)
        async with self._free:
            data = await self._fetch(url)
            try:
                yield data
            except ImageTooLarge as error:
                raise FetchTooLarge(f"{shown(url)}: {error}") from error
            except ImageError as error:
                raise FetchFailed(f"{shown(url)}: {error}") from error

    @traced("fetch image")
    async def _fetch(self, url: httpx.URL) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._follow(url)
        except ImageTooLarge as error:
            raise FetchTooLarge(f"{shown(url)}: {error}") from error
        except (TimeoutError, httpcore.TimeoutException) as error:
            reason = f"it took longer than {self._timeout:g} s"
            raise _failed(url, reason) from error
        except ImageError as error:
            raise _failed(url, str(error)) from error
        except AddressForbidden as error:
            raise _failed(url, "its address is not a public one") from error
        except HostUnknown as error:
            raise _failed(url, "its host is not known") from error
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise _failed(url, "its host does not answer as HTTP asks") from error
        except (httpcore.NetworkError, OSError) as error:
            raise _failed(url, "no connection, or it ended early") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpcore.ConnectionNotAvailable) as error:
            raise _failed(url, "it cannot be requested") from error

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(REDIRECTS + 1):
            async with self._http.stream("GET", url) as answer:
                location = answer.headers.get("location")
                if answer.status_code not in _REDIRECTED or location is None:
                    if answer.status_code != 200:
                        raise ImageError(f"its host answered {answer.status_code}")
                    return await self._read(answer)
            # Each redirect is a new request, so its address is checked like the first one.
            url = redirected(url, location)
        raise ImageError(f"more than {REDIRECTS} redirects")

    async def _read(self, answer: httpx.Response) -> bytes:
        too_large = ImageTooLarge(f"more than {self._max_bytes} bytes")
        length = answer.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise too_large
        unpack = unpacking(answer.headers.get("content-encoding", ""))
        data = bytearray()
        async for part in answer.aiter_raw():
            # One byte over the limit is enough to refuse it, however much it would unpack to.
            data += part if unpack is None else _unpacked(unpack, part, self._max_bytes + 1 - len(data))
            if len(data) > self._max_bytes:
                raise too_large
        return bytes(data)


def parse(text: str) -> httpx.URL:
    """Parse the URL of an image.

    Raises:
        ImageError: The text is not a valid URL, is too long, or carries credentials.
    """
    text = text.strip()
    if len(text) > LONGEST_URL:
        raise ImageError(f"a URL of more than {LONGEST_URL} characters")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageError("not a valid URL") from error
    if url.port is not None and not 0 < url.port < 65536:
        raise ImageError("not a valid URL")
    if not url.host:
        raise ImageError("a URL without a host")
    if url.userinfo:
        raise ImageError("a URL that carries credentials; they are not sent to the image's host")
    return url


def redirected(url: httpx.URL, location: str) -> httpx.URL:
    """Return the target of a redirect.

    Raises:
        ImageError: The target is not a URL that may be fetched.
    """
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageError("it redirects to what is not a valid URL") from error
    if target.scheme not in ("http", "https"):
        raise ImageError("it redirects to what is not an http or https URL")
    parse(str(target))
    return target


def shown(url: httpx.URL) -> str:
    """Format a URL for a message: without query, fragment and credentials, and of bounded length."""
    bare = str(url.copy_with(query=None, fragment=None, userinfo=b""))
    return bare if len(bare) <= _SHOWN_CHARACTERS else bare[: _SHOWN_CHARACTERS - 3] + "..."


def unpacking(encoding: str) -> "zlib._Decompress | None":
    """Return a decompressor for a content encoding, None for none.

    Some hosts send an encoding although the request accepts none.

    Raises:
        ImageError: The encoding is not known.
    """
    if encoding.strip().lower() in ("", "identity"):
        return None
    if encoding.strip().lower() in ("gzip", "x-gzip", "deflate"):
        # Adding 32 makes zlib detect gzip or zlib from the header.
        return zlib.decompressobj(32 + zlib.MAX_WBITS)
    raise ImageError("its host sends a content encoding that was not asked for")


def _unpacked(unpack: "zlib._Decompress", part: bytes, most: int) -> bytes:
    try:
        return unpack.decompress(part, most)
    except zlib.error as error:
        raise ImageError("its host sends a damaged content encoding") from error


def _failed(url: httpx.URL, reason: str) -> FetchFailed:
    return FetchFailed(f"{shown(url)} could not be fetched: {reason}")
