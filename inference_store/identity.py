"""Identity of requests: `describe` describes a request, `identity` hashes the part of it that counts.

Both are pure functions. The description is plain JSON in the index of every record. So an identity can be
computed again from the index alone, also by other rules.
"""

import hashlib
import json
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from inference_store.protocol import INFER, Message
from inference_store.tensors import FLOATS, MalformedTensor, raw_contents

Description = dict[str, Any]

ALL = "all"
_SEQUENCE = "sequence_id"


@dataclass(frozen=True)
class Matching:
    """The rules by which a record may answer a different request; by default only the id may differ.

    Attributes:
        ignore_parameters: Names of parameters that do not count; {"all"} for every one.
        subset_outputs: Whether a record with more outputs than requested answers with the requested ones.
        tolerance: Largest absolute difference between elements of FP16, FP32 and FP64 inputs.
    """

    ignore_parameters: frozenset[str] = frozenset()
    subset_outputs: bool = False
    tolerance: float = 0.0

    @property
    def strict(self) -> bool:
        """True if only equal requests match."""
        return self == STRICT

    def counts(self, parameter: str) -> bool:
        """Return whether a parameter of this name counts."""
        return ALL not in self.ignore_parameters and parameter not in self.ignore_parameters


STRICT = Matching()


def identity(description: Description, matching: Matching = STRICT) -> str:
    """Return the SHA-256, in hex, of the part of a description that counts; equal requests have the same.

    The identity under STRICT names the record. Under other rules, all candidates for an answer share it, and
    the outputs and the floats are compared afterwards.
    """
    counted = description if matching.strict else _relaxed(description, matching)
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe(request: Message, method: str = INFER) -> Description:
    """Describe a ModelInferRequest by model, version, parameters, inputs and outputs, without its id.

    Inputs are sorted by name. Their content is described by the SHA-256 of its raw form, however it was sent.
    Outputs keep their order, which is that of the answer. A malformed request is described by its bytes.
    """
    description: Description = {"method": method, "model": request.model_name}
    if request.model_version:
        description["version"] = request.model_version
    try:
        contents = raw_contents(request)
    except MalformedTensor:
        return {**description, "malformed": True, "sha256": _sha256(without_id(request))}
    description["inputs"] = sorted(
        (
            _with_parameters(
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": list(tensor.shape),
                    "sha256": _sha256(content),
                },
                tensor,
            )
            for tensor, content in zip(request.inputs, contents, strict=True)
        ),
        key=itemgetter("name", "sha256"),
    )
    if request.outputs:
        description["outputs"] = [
            _with_parameters({"name": output.name}, output) for output in request.outputs
        ]
    return _with_parameters(description, request)


def describe_call(method: str, request: Message) -> Description:
    """Describe a call other than an inference by its method and its whole request."""
    description: Description = {"method": method}
    name = getattr(request, "model_name", "") or getattr(request, "name", "")
    if name:
        description["model"] = name
    if version := getattr(request, "version", ""):
        description["version"] = version
    description["sha256"] = _sha256(request.SerializeToString(deterministic=True))
    return description


def canonical(request: Message) -> bytes:
    """Serialize a request for a record: without its id, and with raw contents however they were sent."""
    try:
        contents = raw_contents(request)
    except MalformedTensor:
        return without_id(request)
    kept = type(request)()
    kept.CopyFrom(request)
    kept.ClearField("id")
    del kept.raw_input_contents[:]
    for tensor in kept.inputs:
        tensor.ClearField("contents")
    kept.raw_input_contents.extend(contents)
    return bytes(kept.SerializeToString(deterministic=True))


def without_id(message: Message) -> bytes:
    """Serialize a request or an answer deterministically, without its id."""
    if not message.id:
        return bytes(message.SerializeToString(deterministic=True))
    kept = type(message)()
    kept.CopyFrom(message)
    kept.ClearField("id")
    return bytes(kept.SerializeToString(deterministic=True))


def step(description: Description) -> str:
    """Return the identity of a step, whatever its sequence's number; the next step names it as `after`."""
    return identity(description, Matching(frozenset({_SEQUENCE})))


def _value(parameter: Message) -> Any:  # noqa: ANN401 - bool, int, float, str or none at all
    """Return a parameter as {kind: value}, because 1, 1.0, "1" and true differ."""
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else {kind.removesuffix("_param"): getattr(parameter, kind)}


def _with_parameters(description: Description, message: Message) -> Description:
    parameters = message.parameters
    if parameters:
        description["parameters"] = {name: _value(parameters[name]) for name in sorted(parameters)}
    return description


def _relaxed(description: Description, matching: Matching) -> Description:
    """Return the description without the parts that do not count."""
    relaxed = _without_parameters(description, matching)
    if matching.subset_outputs:
        relaxed.pop("outputs", None)
    elif "outputs" in relaxed:
        relaxed["outputs"] = [_without_parameters(output, matching) for output in relaxed["outputs"]]
    if "inputs" in relaxed:
        relaxed["inputs"] = [_without_parameters(tensor, matching) for tensor in relaxed["inputs"]]
        if matching.tolerance:
            for tensor in relaxed["inputs"]:
                if tensor["datatype"] in FLOATS:
                    tensor.pop("sha256")
    return relaxed


def _without_parameters(part: Description, matching: Matching) -> Description:
    kept = {name: value for name, value in part.get("parameters", {}).items() if matching.counts(name)}
    relaxed = {name: value for name, value in part.items() if name != "parameters"}
    if kept:
        relaxed["parameters"] = kept
    return relaxed


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
