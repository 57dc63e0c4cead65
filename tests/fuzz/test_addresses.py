"""URLs of images: whatever is written, and whoever redirects, no forbidden address is connected to."""

import asyncio
import functools
import ipaddress
from collections.abc import Iterable

import httpcore
import httpx
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.allowed_hosts import Address, AllowedHosts, is_public
from gateway.images.fetcher import ImageFetcher, parse, redirected, shown
from gateway.images.headers import ImageError
from gateway.images.sources import is_url
from gateway.images.ssrf_guard import GuardedBackend

NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
        "::/127",
        "fe80::/10",
        "fc00::/7",
        "ff00::/8",
        "2001:2::/48",
        "2001:10::/28",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "64:ff9b:1::/48",
        "100::/64",
        "::ffff:0:0:0/96",
        "fec0::/10",
    )
]
"""IANA's special-purpose registries, as far as no host of the Internet is there; and Azure's own."""


def forbidden(address: Address) -> bool:
    """By the list above, with the IPv4 address inside of an IPv6 one taken out by hand."""
    if isinstance(address, ipaddress.IPv6Address):
        bits = int(address)
        inner = {
            bits >> 32 == 0xFFFF: bits,
            bits >> 96 == 0x0064FF9B << 0 and (bits >> 32) & 0xFFFFFFFFFFFFFFFF == 0: bits,
            bits >> 112 == 0x2002: bits >> 80,
            bits >> 96 == 0x20010000: ~bits,
        }.get(True)
        if inner is not None and forbidden(ipaddress.IPv4Address(inner & 0xFFFFFFFF)):
            return True
    return any(address in network for network in NOT_PUBLIC if network.version == address.version)


def any_address() -> st.SearchStrategy[Address]:
    inside = st.ip_addresses(v=4).map(int)
    wrapped = st.builds(
        lambda number, how: ipaddress.IPv6Address(how(number)),
        inside,
        st.sampled_from(
            (
                lambda n: 0xFFFF << 32 | n,
                lambda n: 0x64FF9B << 96 | n,
                lambda n: 0x2002 << 112 | n << 80,
                lambda n: 0x20010000 << 96 | (~n & 0xFFFFFFFF),
                lambda n: n,
            )
        ),
    )
    return st.ip_addresses() | wrapped


@given(any_address())
@example(ipaddress.ip_address("::ffff:127.0.0.1"))
@example(ipaddress.ip_address("64:ff9b::7f00:1"))
@example(ipaddress.ip_address("fe80::1%lo"))
def test_no_special_address_is_public(address: Address) -> None:
    if forbidden(address):
        assert not is_public(address)
        assert not AllowedHosts().permits(str(address), address)
        assert AllowedHosts([str(address).partition("%")[0]]).permits("a", address)


def hosts() -> st.SearchStrategy[str]:
    """Hosts that somebody could read as an address of this machine, each way one is written."""

    def written(number: int, how: int) -> str:
        parts = number.to_bytes(4, "big")
        return (
            str(number),
            hex(number),
            f"0{number:o}",
            ".".join(map(str, parts)),
            ".".join(map(hex, parts)),
            ".".join(f"0{part:o}" for part in parts),
            f"{parts[0]}.{number & 0xFFFFFF}",
            f"[::ffff:{'.'.join(map(str, parts))}]",
            f"[64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}]",
            f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
            "".join(
                chr(0xFF10 + int(digit)) if digit.isdigit() else "\u3002"
                for digit in ".".join(map(str, parts))
            ),
        )[how]

    numbers = st.sampled_from((0x7F000001, 0x0A000001, 0xA9FEA9FE, 0, 0xC0A80001, 0xA83F8110, 0x64400001))
    words = st.sampled_from(
        (
            "localhost",
            "localhost.",
            "LOCALHOST",
            "ip6-localhost",
            "[::1]",
            "[::]",
            "[fe80::1%25lo]",
            "[fe80::1%lo]",
            "ⓛocalhost",
            "127.1",
            "0",
            "[::127.0.0.1]",
            "0x7f.1",
            "127.0.0.1.",
            "",
        )
    )
    return words | st.builds(written, numbers, st.integers(0, 10))


def urls() -> st.SearchStrategy[str]:
    """Such hosts among what confuses parsers of URLs."""
    before = st.sampled_from(
        ("", "a@", "a:b@", "8.8.8.8@", "8.8.8.8\\@", "8.8.8.8#@", "8.8.8.8?@", "[", "//", "\\", "%00")
    )
    after = st.sampled_from(
        (
            "",
            "/",
            "/a.png",
            ":80",
            ":0",
            ":99999",
            ":-1",
            ":80@8.8.8.8",
            "\\@8.8.8.8/",
            "#@8.8.8.8",
            "?a=\ud800",
            "/%",
            "\t/",
            "/é",
            ".",
            "%2f",
            ":٣",
            "/\0",
            "/ a\r\nX: y",
        )
    )
    schemes = st.sampled_from(
        ("http://", "https://", "HTTP://", " http://", "http:", "http:/", "http:///", "http:\\\\")
    )
    return st.builds("{}{}{}{}".format, schemes, before, hosts(), after) | st.text(max_size=40).map(
        "http://{}".format
    )


class Noted(httpcore.AsyncNetworkBackend):
    """The network, with nobody there: notes every address that a connection is made to."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del port, timeout, local_address, socket_options
        self.connected.append(host)
        raise httpcore.ConnectError

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@functools.cache
def fetching() -> tuple[asyncio.Runner, ImageFetcher, Noted]:
    """One fetcher, whose connections lead nowhere, and the loop that it lives in."""
    runner, noted = asyncio.Runner(), Noted()

    async def made() -> ImageFetcher:
        return ImageFetcher(AllowedHosts(), max_bytes=1000, timeout=5, concurrency=1)

    fetcher = runner.run(made())
    backend: GuardedBackend = fetcher._http._transport._backend  # type: ignore[attr-defined]
    backend._plain = noted  # type: ignore[assignment]
    return runner, fetcher, noted


def connected(text: str) -> list[str]:
    """The addresses that fetching a URL connects to."""
    runner, fetcher, noted = fetching()
    noted.connected.clear()

    async def run() -> None:
        try:
            async with fetcher.fetch(text):
                pass
        except ImageError as error:
            # It becomes an answer.
            str(error).encode()

    runner.run(run())
    return noted.connected


@given(urls().filter(lambda text: "localhost" in text.lower() or not any(map(str.isalpha, text[8:20]))))
@example("http://2130706433/")
@example("http://0x7f.1/")
@example("http://[::ffff:127.0.0.1]/")
@example("http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/")
@example("http://8.8.8.8\\@127.0.0.1/")
def test_no_forbidden_address_is_connected_to(text: str) -> None:
    try:
        if not is_url(text):
            return
    except ImageError:
        return
    for address in connected(text):
        assert not forbidden(ipaddress.ip_address(address)), address


def test_what_is_permitted_is_connected_to() -> None:
    """Else the property above would hold of a fetcher that fetches nothing."""
    assert connected("http://8.8.8.8/") == ["8.8.8.8"]
    assert connected("http://[2001:4860:4860::8888]:81/a") == ["2001:4860:4860::8888"]


@given(urls(), urls() | st.text(max_size=30))
@example("http://a/", "//[")
@example("http://a/", "http://[::1%25]/")
def test_any_url_and_any_redirect_is_used_or_refused(text: str, location: str) -> None:
    try:
        url = parse(text)
        assert isinstance(url, httpx.URL)
        shown(url).encode()
        target = redirected(url, location)
        assert target.scheme in ("http", "https")
        shown(target).encode()
    except ImageError as error:
        str(error).encode()
