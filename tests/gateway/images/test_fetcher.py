"""Images by URL, from a real local server that plays good and hostile hosts."""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.allowed_hosts import AllowedHosts, is_public
from gateway.images.fetcher import FetchTooLarge, ImageFetcher, shown
from gateway.images.fetcher import parse as parse_url
from gateway.images.headers import ImageError
from tests.support.hostile_host import HostileHost, hostile_hosts
from tests.support.pictures import PICTURES

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[HostileHost, HostileHost]]:
    with hostile_hosts() as both:
        yield both


@pytest.fixture
def host(hosts: tuple[HostileHost, HostileHost]) -> HostileHost:
    return hosts[0]


def fetch(*urls: str, allowed: tuple[str, ...] = ("127.0.0.2",), timeout: float = 2) -> list[bytes]:
    """One after another with one fetcher."""

    async def run() -> list[bytes]:
        fetcher = ImageFetcher(AllowedHosts(allowed), max_bytes=LIMIT, timeout=timeout, concurrency=4)
        try:
            found = []
            for url in urls:
                async with fetcher.fetch(url) as data:
                    found.append(data)
            return found
        finally:
            await fetcher.close()

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/png", "/once", "/twice", "/gzip", "/png?size=large&key=secret"])
def test_an_image_is_fetched_whatever_it_is_called(host: HostileHost, path: str) -> None:
    assert fetch(host.url + path) == [PICTURES["png"]()]


REFUSED = {
    "/missing": "answered 404",
    "/no-content": "answered 204",
    "/trickle": "longer than 2 s",
    "/silence": "longer than 2 s",
    "/hang-up": "HTTP asks",
    "/half": "HTTP asks",
    "/not-http": "HTTP asks",
    "/headers": "HTTP asks",
    "/endless": "more than",
    "/long": "more than",
    "/gzip-bomb": "more than",
    "/brotli": "content encoding",
    "/to-file": "not an http or https URL",
    "/to-ftp": "not an http or https URL",
    "/to-nothing": "more than 5 redirects",
    "/to-credentials": "credentials",
    "/to-self": "more than 5 redirects",
    "/to-other": "more than 5 redirects",
    "/to-loopback": "not a public one",
    "/to-loopback-name": "not a public one",
    "/to-metadata": "not a public one",
    "/to-ipv6-loopback": "not a public one",
    "/to-ipv6-mapped": "not a public one",
    "/to-ipv6-metadata": "not a public one",
    "/to-decimal": "not a public one",
    "/to-octal": "cannot be requested",
    "/to-short": "not a public one",
    "/to-zero": "not a public one",
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_refused_says_url_and_reason(hosts: tuple[HostileHost, HostileHost], path: str) -> None:
    allowed, forbidden = hosts
    with pytest.raises(ImageError) as caught:
        fetch(f"{allowed.url}{path}?token=secret")
    message = str(caught.value)
    assert message.startswith(f"{allowed.url}{path}")
    assert REFUSED[path] in message
    assert "secret" not in message
    assert forbidden.paths == []


@pytest.mark.parametrize("path", ["/endless", "/long", "/gzip-bomb"])
def test_too_many_bytes_are_counted_while_they_come(host: HostileHost, path: str) -> None:
    host.sent = 0
    with pytest.raises(FetchTooLarge):
        fetch(host.url + path)
    time.sleep(0.2)
    # What the sockets' buffers hold may be sent beside the limit.
    assert host.sent < 32 << 20


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/png",
        "http://localhost:{port}/png",
        "http://LOCALHOST.:{port}/png",
        "http://127.1:{port}/png",
        "http://2130706433:{port}/png",
        "http://0x7f000001:{port}/png",
        "http://0177.0.0.1:{port}/png",
        "http://0:{port}/png",
        "http://[::1]:{port}/png",
        "http://[::]:{port}/png",
        "http://[::ffff:127.0.0.1]:{port}/png",
        "http://[::ffff:7f00:1]:{port}/png",
        "http://①②⑦.⓪.⓪.①:{port}/png",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
    ],
)
def test_what_is_not_public_is_not_connected_to(hosts: tuple[HostileHost, HostileHost], url: str) -> None:
    forbidden = hosts[1]
    with pytest.raises(ImageError, match=r"not a public one|not known|not a valid URL"):
        fetch(url.format(port=forbidden.server_port), allowed=())
    assert forbidden.paths == []


@pytest.mark.parametrize(
    "allowed", [("localhost",), ("127.0.0.1",), ("127.0.0.0/8",), ("other.example", "127.0.0.1/32")]
)
def test_the_operator_may_allow_more(
    hosts: tuple[HostileHost, HostileHost], allowed: tuple[str, ...]
) -> None:
    with hostile_hosts() as (_, other):
        name = "localhost" if allowed == ("localhost",) else "127.0.0.1"
        assert fetch(f"http://{name}:{other.server_port}/png", allowed=allowed) == [PICTURES["png"]()]
    assert hosts[1].paths == []


def test_a_name_that_changes_its_answer_gains_nothing(
    hosts: tuple[HostileHost, HostileHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked once it names an allowed address, asked again it names loopback: it is asked once."""
    allowed, forbidden = hosts
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    real = socket.getaddrinfo

    def changing(host: str, port: int, **more: int) -> list[Any]:
        if host != "rebinding.example":
            return list(real(host, port, **more))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    url = f"http://rebinding.example:{allowed.server_port}/png"
    assert fetch(url, allowed=("127.0.0.2",)) == [PICTURES["png"]()]
    with pytest.raises(ImageError, match="not a public one"):
        fetch(url, allowed=("127.0.0.2",))
    assert forbidden.paths == []


def test_of_several_addresses_only_the_permitted_are_tried(
    hosts: tuple[HostileHost, HostileHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = hosts[1]
    # 127.0.0.3 is allowed and nobody listens there; the other is where somebody does.
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", 0)) for last in (1, 3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(ImageError, match="no connection"):
        fetch(f"http://two.example:{forbidden.server_port}/png", allowed=("127.0.0.3",))
    assert forbidden.paths == []


def test_tls_and_the_host_header_have_the_name() -> None:
    """The name is in the first bytes of a TLS handshake, readable; and in the Host header without TLS."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection:
                    seen.append(connection.recv(4096))

        thread = threading.Thread(target=listen)
        thread.start()
        port = listening.getsockname()[1]
        for scheme in ("https", "http"):
            with pytest.raises(ImageError):
                fetch(f"{scheme}://localhost:{port}/a.png", allowed=("localhost",))
        thread.join()
    assert seen[0][0] == 0x16
    assert b"localhost" in seen[0]
    assert f"Host: localhost:{port}\r\n".encode().lower() in seen[1].lower()


def test_cookies_of_one_host_are_not_kept(host: HostileHost) -> None:
    host.cookies.clear()
    fetch(host.url + "/png", host.url + "/png")
    assert host.cookies == [None, None]


def test_a_proxy_of_the_environment_is_not_used(
    hosts: tuple[HostileHost, HostileHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, forbidden = hosts
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, forbidden.url)
    assert fetch(allowed.url + "/png") == [PICTURES["png"]()]
    assert forbidden.paths == []


def test_only_so_many_are_fetched_at_a_time() -> None:
    async def run(host: HostileHost) -> None:
        fetcher = ImageFetcher(AllowedHosts(["127.0.0.2"]), max_bytes=LIMIT, timeout=10, concurrency=3)

        async def one() -> None:
            async with fetcher.fetch(host.url + "/slow-png"):
                pass

        await asyncio.gather(*(one() for _ in range(12)))
        await fetcher.close()

    with hostile_hosts() as (host, _):
        asyncio.run(run(host))
        assert host.most_busy == 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:secret@127.0.0.2/a.png", "credentials"),
        ("http://user@127.0.0.2/a.png", "credentials"),
        ("http://", "without a host"),
        ("http:///a.png", "without a host"),
        ("http://127.0.0.2:99999/", "not a valid URL"),
        ("http://127.0.0.2:port/", "not a valid URL"),
        ("http://[::1/", "not a valid URL"),
        ("http://a\x00b/", "not a valid URL"),
        ("http://" + "a" * 9000, "characters"),
    ],
)
def test_urls_that_cannot_be_meant(url: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_a_shown_url_is_short_and_without_secrets() -> None:
    url = parse_url("https://example.com:8443/a/b.png?token=secret#part")
    assert shown(url) == "https://example.com:8443/a/b.png"
    assert len(shown(parse_url("https://example.com/" + "a" * 3000))) == 200


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("entry", ["http://a", "a b", "10.0.0.0/99", "300.1.2.3", "a/b", "-"])
def test_an_entry_that_is_no_host(entry: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        AllowedHosts([entry])
