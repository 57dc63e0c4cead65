"""Tensors of requests as bytes: each datatype's form on the wire, and conversion of typed contents to it.

A request holds a tensor either raw (little-endian, with a uint32 length before each element of BYTES) or
typed, as a list of protobuf numbers. Both mean the same, so identity and records use only the raw form.
"""

import struct
from math import prod

from inference_store.protocol import Message

FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d", "FP16": "e",
}  # fmt: skip
"""The letters of `struct` for the datatypes that it knows, all of a fixed size."""

WIDTHS = {**{name: struct.calcsize(f"<{letter}") for name, letter in FORMATS.items()}, "BF16": 2}
"""The bytes of one element by datatype."""

FLOATS = ("FP16", "FP32", "FP64")
"""The datatypes that may be compared with a tolerance."""

_TYPED_FIELD = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class MalformedTensor(ValueError):
    """A tensor's content does not fit its datatype and shape; the message says which tensor and why."""


def raw_contents(request: Message) -> list[bytes]:
    """Return the raw content of every input of a ModelInferRequest, in the order of the inputs.

    Raises:
        MalformedTensor: A datatype is unknown, or a content does not fit.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    if not raw:
        return [_from_typed(tensor) for tensor in inputs]
    if len(raw) != len(inputs):
        raise MalformedTensor(f"the request has {len(inputs)} inputs and {len(raw)} raw contents")
    for tensor, content in zip(inputs, raw, strict=True):
        if tensor.HasField("contents"):
            raise MalformedTensor(f"input '{tensor.name}' is sent both raw and typed")
        check(tensor.name, tensor.datatype, tensor.shape, content)
    return list(raw)


def check(name: str, datatype: str, shape: list[int], content: bytes) -> None:
    """Check raw content against its datatype and shape.

    Raises:
        MalformedTensor: The content does not fit.
    """
    if any(size < 0 for size in shape):
        raise MalformedTensor(f"input '{name}': shape {list(shape)} has a negative size")
    elements = prod(shape)
    if datatype == "BYTES":
        found = len(split_bytes(name, content))
        if found != elements:
            raise MalformedTensor(f"input '{name}': {found} strings, shape {list(shape)} needs {elements}")
        return
    expected = elements * width(name, datatype)
    if len(content) != expected:
        raise MalformedTensor(
            f"input '{name}': {len(content)} bytes, {datatype} of shape {list(shape)} needs {expected}"
        )


def width(name: str, datatype: str) -> int:
    """Return the number of bytes of one element.

    Raises:
        MalformedTensor: The datatype is unknown, or its elements have no fixed size.
    """
    if datatype not in WIDTHS:
        raise MalformedTensor(f"input '{name}': unknown datatype '{datatype}'")
    return WIDTHS[datatype]


def split_bytes(name: str, content: bytes) -> list[bytes]:
    """Return the elements of a raw BYTES tensor.

    Raises:
        MalformedTensor: A length leads past the end.
    """
    elements, position = [], 0
    while position < len(content):
        end = position + 4
        if end > len(content):
            raise MalformedTensor(f"input '{name}': the content ends inside the length of a string")
        end += int.from_bytes(content[position : position + 4], "little")
        if end > len(content):
            raise MalformedTensor(f"input '{name}': the content ends inside a string")
        elements.append(bytes(content[position + 4 : end]))
        position = end
    return elements


def join_bytes(elements: list[bytes]) -> bytes:
    """Return the raw content of a BYTES tensor."""
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


def pack(name: str, datatype: str, elements: list[object]) -> bytes:
    """Return numbers of a datatype of `FORMATS` as raw content.

    Raises:
        MalformedTensor: A number is of another kind or out of range.
    """
    try:
        return struct.pack(f"<{len(elements)}{FORMATS[datatype]}", *elements)
    except (struct.error, OverflowError) as error:
        raise MalformedTensor(f"input '{name}': not all elements are {datatype} ({error})") from error


def unpack(datatype: str, content: bytes) -> tuple[object, ...]:
    """Return raw content of a datatype of `FORMATS` as numbers."""
    return struct.unpack(f"<{len(content) // WIDTHS[datatype]}{FORMATS[datatype]}", content)


def _from_typed(tensor: Message) -> bytes:
    name, datatype = tensor.name, tensor.datatype
    if datatype not in _TYPED_FIELD:
        width(name, datatype)
        raise MalformedTensor(f"input '{name}': {datatype} can only be sent raw")
    field = _TYPED_FIELD[datatype]
    others = [found.name for found, _ in tensor.contents.ListFields() if found.name != field]
    if others:
        raise MalformedTensor(f"input '{name}': {datatype} is sent in {field}, not in {others[0]}")
    elements = list(getattr(tensor.contents, field))
    content = join_bytes(elements) if datatype == "BYTES" else pack(name, datatype, elements)
    check(name, datatype, tensor.shape, content)
    return content
