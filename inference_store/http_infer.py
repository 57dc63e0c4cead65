"""Conversion of inferences over HTTP, in JSON with or without binary tensors, to and from gRPC's messages."""

import json
import struct
from array import array
from dataclasses import dataclass
from typing import Any

from inference_store.errors import Invalid
from inference_store.json_body import read_json
from inference_store.protocol import InferRequest, InferResponse, Message
from inference_store.tensors import FORMATS, MalformedTensor, check, join_bytes, pack, split_bytes, unpack

HEADER_LENGTH = "inference-header-content-length"
_SIZE, _BINARY, _BINARY_ALL = "binary_data_size", "binary_data", "binary_data_output"
_NOT_IN_JSON = ("FP16", "BF16")


@dataclass(frozen=True)
class Asked:
    """A ModelInferRequest, and the form in which its outputs are to be sent.

    Attributes:
        request: The message.
        binary: Whether each output named in the request is to be binary.
        otherwise: Whether all other outputs are to be binary.
    """

    request: Message
    binary: dict[str, bool]
    otherwise: bool


def parse_request(model: str, version: str, body: bytes, header_length: int | None) -> Asked:
    """Read the request in a body, of which the first `header_length` bytes are JSON, or all bytes for None.

    Raises:
        Invalid: The request cannot be read, or a tensor does not fit its shape.
    """
    rest = memoryview(body)[header_length:] if header_length is not None else memoryview(b"")
    try:
        content = read_json(body[:header_length])
        request = InferRequest(model_name=model, model_version=version, id=str(content.get("id", "")))
        parameters = dict(content.get("parameters", {}))
        otherwise = bool(parameters.pop(_BINARY_ALL, False))
        set_parameters(request.parameters, parameters)
        contents = []
        for given in content.get("inputs", []):
            raw, rest = _add_input(request, given, rest)
            contents.append(raw)
        request.raw_input_contents.extend(contents)
        binary = {
            str(given["name"]): _add_output(request, given, otherwise) for given in content.get("outputs", [])
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Invalid(f"the request cannot be read: {reason}") from error
    if len(rest):
        raise Invalid(f"{len(rest)} bytes follow the last tensor")
    return Asked(request, binary, otherwise)


def set_parameters(field: Message, values: dict[str, Any]) -> None:
    """Set JSON values as InferParameters.

    Raises:
        ValueError: A value is null, a list or an object, or out of range.
    """
    for name, value in values.items():
        for kind, choice in (
            (bool, "bool_param"),
            (int, "int64_param"),
            (float, "double_param"),
            (str, "string_param"),
        ):
            if isinstance(value, kind):
                setattr(field[name], choice, value)
                break
        else:
            raise ValueError(f"parameter '{name}' must be a string, a number or a boolean")


def write_response(answer: bytes, request_id: str, asked: Asked) -> tuple[bytes, int | None]:
    """Return the body for a serialized ModelInferResponse, and its JSON's length if binary tensors follow.

    Raises:
        Invalid: An output cannot be written as JSON.
    """
    response = InferResponse.FromString(answer)
    outputs, binary = [], []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        described = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        parameters = parameters_as_json(output.parameters)
        if asked.binary.get(output.name, asked.otherwise):
            parameters[_SIZE] = len(raw)
            binary.append(raw)
        else:
            described["data"] = _data(output.name, output.datatype, raw)
        outputs.append({**described, "parameters": parameters} if parameters else described)
    content: dict[str, Any] = {"id": request_id} if request_id else {}
    content |= {"model_name": response.model_name, "model_version": response.model_version}
    if response.parameters:
        content["parameters"] = parameters_as_json(response.parameters)
    head = json.dumps({**content, "outputs": outputs}, separators=(",", ":"), ensure_ascii=False).encode()
    return (b"".join((head, *binary)), len(head)) if binary else (head, None)


def parameters_as_json(field: Message) -> dict[str, Any]:
    """Return InferParameters, or the settings of the log, as JSON values."""
    found = {name: (value, value.WhichOneof("parameter_choice")) for name, value in field.items()}
    return {name: getattr(value, choice) for name, (value, choice) in sorted(found.items()) if choice}


def _add_input(request: Message, given: dict[str, Any], rest: memoryview) -> tuple[bytes, memoryview]:
    """Add an input; return its content, and the rest of the binary tensors."""
    tensor = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
    parameters = dict(given.get("parameters", {}))
    size = parameters.pop(_SIZE, None)
    set_parameters(tensor.parameters, parameters)
    if "shared_memory_region" in parameters:
        return b"", rest
    if size is None:
        raw = _content(tensor.name, tensor.datatype, given["data"])
    elif not 0 <= size <= len(rest):
        raise ValueError(f"input '{tensor.name}' has {size} bytes, {len(rest)} are left")
    else:
        raw, rest = bytes(rest[:size]), rest[size:]
    check(tensor.name, tensor.datatype, tensor.shape, raw)
    return raw, rest


def _add_output(request: Message, given: dict[str, Any], otherwise: bool) -> bool:
    """Add an output; return whether it is to be binary."""
    output = request.outputs.add(name=given["name"])
    parameters = dict(given.get("parameters", {}))
    binary = bool(parameters.pop(_BINARY, otherwise))
    set_parameters(output.parameters, parameters)
    return binary


def _content(name: str, datatype: str, data: Any) -> bytes:  # noqa: ANN401 - JSON
    """Return JSON elements, in lists of any depth, as raw content."""
    elements = list(_flat(data))
    if datatype in _NOT_IN_JSON:
        raise MalformedTensor(f"input '{name}': {datatype} cannot be sent as JSON: send it in binary")
    kind = str if datatype == "BYTES" else bool if datatype == "BOOL" else int | float
    if not all(
        isinstance(element, kind) and (kind is bool or not isinstance(element, bool)) for element in elements
    ):
        raise MalformedTensor(f"input '{name}': not all elements are {datatype}")
    if datatype == "BYTES":
        return join_bytes([element.encode() for element in elements])
    if datatype == "FP32":
        # A number that is too large becomes infinite.
        try:
            elements = list(array("f", elements))
        except OverflowError as error:
            raise MalformedTensor(f"input '{name}': not all elements are {datatype} ({error})") from error
    if datatype not in FORMATS:
        raise MalformedTensor(f"input '{name}': unknown datatype '{datatype}'")
    return pack(name, datatype, elements)


def _flat(data: Any) -> Any:  # noqa: ANN401 - JSON
    # With nested generators, each element would pass through as many as its lists are deep.
    within = [iter([data])]
    while within:
        for element in within[-1]:
            if isinstance(element, list):
                within.append(iter(element))
                break
            yield element
        else:
            within.pop()


def _data(name: str, datatype: str, raw: bytes) -> list[Any]:
    """Return raw content as a JSON list."""
    if datatype in _NOT_IN_JSON:
        raise Invalid(
            f"sending {datatype} data via JSON is not supported: ask for output '{name}' as binary_data"
        )
    try:
        if datatype != "BYTES":
            return list(unpack(datatype, raw))
        return [element.decode() for element in split_bytes(name, raw)]
    except UnicodeDecodeError as error:
        raise Invalid(f"output '{name}' is no text: ask for it as binary_data") from error
    except (KeyError, struct.error, MalformedTensor) as error:
        raise Invalid(f"output '{name}' of the answer does not fit its datatype: {error}") from error
