"""Reads the string that stands for an image: a URL, a data URI or bare base64. Pure functions of a string."""

import binascii
import io
import re
from urllib.parse import unquote_to_bytes

from gateway.images.headers import ImageError, ImageTooLarge

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_STEP = 1 << 18
"""Characters decoded in one call, a multiple of four; the GIL is held meanwhile, for less than 1 ms."""


def is_url(text: str) -> bool:
    """Return whether an image must be fetched.

    Raises:
        ImageError: The text is a URL with a scheme other than http and https.
    """
    match = _SCHEME.match(text[:64].lstrip())
    if match is None or match[1].lower() == "data":
        return False
    if match[1].lower() in ("http", "https"):
        return True
    raise ImageError("an image is an http or https URL, a data URI or base64; this scheme is none of them")


def decode(text: str, max_bytes: int) -> bytes:
    """Decode a data URI or base64: standard or URL-safe, with or without padding and line breaks.

    Raises:
        ImageError: The text is not base64, or empty.
        ImageTooLarge: There are more than `max_bytes` bytes.
    """
    text = text.strip()
    is_base64 = True
    if text[:5].lower() == "data:":
        # The media type is ignored; the format is detected from the content.
        head, comma, text = text.partition(",")
        if not comma:
            raise ImageError("a data URI without a comma")
        is_base64 = head[-7:].lower() == ";base64"
    is_quoted = not is_base64 or "%" in text
    if not is_quoted:
        text = _unbroken(text)
    # An early bound that saves the decoding; the check below is exact.
    if len(text) * 3 // 4 > (max_bytes + 3) * (4 if is_quoted else 1):
        raise ImageTooLarge(f"more than {max_bytes} bytes")
    if is_quoted:
        unquoted = unquote_to_bytes(text)
        data = _base64(_unbroken(unquoted.decode("latin-1"))) if is_base64 else unquoted
    else:
        data = _base64(text)
    if not data:
        raise ImageError("no bytes")
    if len(data) > max_bytes:
        raise ImageTooLarge(f"more than {max_bytes} bytes")
    return data


def _unbroken(text: str) -> str:
    return "".join(text.split()) if any(space in text for space in " \n\r\t") else text


def _base64(text: str) -> bytes:
    decoded = io.BytesIO()
    try:
        for start in range(0, len(text), _STEP):
            part = text[start : start + _STEP].encode("ascii").translate(_STANDARD)
            if len(part) % 4:
                # Only the last part can have another length than a multiple of four; padding is optional.
                part += b"=" * (-len(part) % 4)
            decoded.write(binascii.a2b_base64(part, strict_mode=True))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ImageError("neither an http or https URL, nor a data URI, nor base64") from error
    return decoded.getvalue()
