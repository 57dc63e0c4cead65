"""What an image's string may be."""

import base64
import os

import pytest

from gateway.images.headers import ImageError, ImageTooLarge
from gateway.images.sources import decode, is_url

DATA = b"\xfb\xff\xfe-\x00some bytes that need + and / in base64\xff\xfe\xfb"
STANDARD = base64.b64encode(DATA).decode()
SAFE = base64.urlsafe_b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        SAFE,
        STANDARD.rstrip("="),
        SAFE.rstrip("="),
        f"  {STANDARD}\n",
        "\r\n".join(STANDARD[start : start + 20] for start in range(0, len(STANDARD), 20)),
        f"data:image/png;base64,{STANDARD}",
        f"data:image/png;base64,{SAFE.rstrip('=')}",
        f"DATA:text/html;charset=utf-8;BASE64,{STANDARD}",
        f"data:;base64,{STANDARD.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        "data:application/octet-stream," + "".join(f"%{byte:02x}" for byte in DATA),
    ],
)
def test_bytes_however_they_are_written(text: str) -> None:
    assert not is_url(text)
    assert decode(text, 1000) == DATA


def test_megabytes() -> None:
    data = os.urandom((3 << 20) + 1)
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode().rstrip("=")):
        assert decode(text, 4 << 20) == data


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no bytes"),
        ("   ", "no bytes"),
        ("data:image/png;base64,", "no bytes"),
        ("data:,", "no bytes"),
        ("data:image/png;base64", "comma"),
        ("not base64!", "nor base64"),
        ("A", "nor base64"),
        ("====", "nor base64"),
        ("QQ==QQ==", "nor base64"),
        ("naïve", "nor base64"),
        ("//example.com/a.png", "nor base64"),
        ("example.com/a.png", "nor base64"),
        ("/etc/passwd.", "nor base64"),
    ],
)
def test_what_is_no_base64(text: str, reason: str) -> None:
    assert not is_url(text)
    with pytest.raises(ImageError, match=reason):
        decode(text, 1000)


@pytest.mark.parametrize("text", [STANDARD, f"data:,{'a' * 100}", f"data:;base64,{STANDARD}"])
def test_bytes_over_the_limit(text: str) -> None:
    with pytest.raises(ImageTooLarge):
        decode(text, 20)


@pytest.mark.parametrize("text", ["http://a/b", "HTTPS://a/b", " http://a"])
def test_urls(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize(
    "text", ["ftp://a/b", "file:///etc/passwd", "s3://bucket/key", "javascript:alert(1)"]
)
def test_other_schemes(text: str) -> None:
    with pytest.raises(ImageError, match="scheme"):
        is_url(text)
