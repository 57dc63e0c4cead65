"""Which requests are the same: `describe` says what a request is, `identity` hashes what counts of it.

Both are pure. The description is plain JSON and stands readable in every record, so that an identity can be
computed again, by other rules too, from the record's index alone.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from inference_store.protocol import INFER, Message
from inference_store.tensors import FLOATS, MalformedTensor, raw_contents

Description = dict[str, Any]

ALL = "all"
_SEQUENCE = "sequence_id"


@dataclass(frozen=True)
class Matching:
    """What may differ between a request and the record that answers it; by default nothing but the id.

    ignore_parameters: names of parameters that do not count; {"all"} for every one.
    subset_outputs: a record that has more outputs than are asked for answers with those asked for.
    tolerance: largest absolute difference of elements of FP16, FP32 and FP64 inputs.
    """

    ignore_parameters: frozenset[str] = frozenset()
    subset_outputs: bool = False
    tolerance: float = 0.0

    @property
    def strict(self) -> bool:
        """Whether only equal requests match."""
        return self == STRICT

    def counts(self, parameter: str) -> bool:
        """Whether a parameter of this name counts."""
        return ALL not in self.ignore_parameters and parameter not in self.ignore_parameters


STRICT = Matching()


def identity(description: Description, matching: Matching = STRICT) -> str:
    """SHA-256, in hex, of what counts of a description; requests of equal identity are the same.

    The identity under STRICT names the record. Under other rules it is what candidates have in common;
    whether their outputs suffice and their floats are close is compared afterwards.
    """
    counted = description if matching.strict else _relaxed(description, matching)
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe(request: Message, method: str = INFER) -> Description:
    """What a ModelInferRequest asks: model, version, parameters, inputs and outputs, not its id.

    Inputs are sorted by name. Content is told by its SHA-256, in raw form, however it was sent. Outputs keep
    their order, which is that of the answer. A request that does not fit itself is told by its very bytes.
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
        key=_sorting,
    )
    if request.outputs:
        description["outputs"] = [
            _with_parameters({"name": output.name}, output) for output in request.outputs
        ]
    return _with_parameters(description, request)


def describe_call(method: str, request: Message) -> Description:
    """What a call other than an inference asks: the method and all of its request."""
    description: Description = {"method": method}
    name = getattr(request, "model_name", "") or getattr(request, "name", "")
    if name:
        description["model"] = name
    if version := getattr(request, "version", ""):
        description["version"] = version
    description["sha256"] = _sha256(request.SerializeToString(deterministic=True))
    return description


def canonical(request: Message) -> bytes:
    """The request as records keep it: without its id, contents raw, however they were sent."""
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
    """A request or an answer, serialized in one order, without its id."""
    if not message.id:
        return bytes(message.SerializeToString(deterministic=True))
    kept = type(message)()
    kept.CopyFrom(message)
    kept.ClearField("id")
    return bytes(kept.SerializeToString(deterministic=True))


def step(description: Description) -> str:
    """The identity of a step whatever the sequence's number is: what the next step comes after."""
    return identity(description, Matching(frozenset({_SEQUENCE})))


def parameters_of(message: Message) -> dict[str, Any]:
    """Its parameters, each as {kind: value}, since 1, 1.0, "1" and true differ."""
    return {name: _value(message.parameters[name]) for name in sorted(message.parameters)}


def _value(parameter: Message) -> Any:  # noqa: ANN401 - bool, int, float, str or none at all
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else {kind.removesuffix("_param"): getattr(parameter, kind)}


def _with_parameters(description: Description, message: Message) -> Description:
    if message.parameters:
        description["parameters"] = parameters_of(message)
    return description


def _relaxed(description: Description, matching: Matching) -> Description:
    """The description without what does not count."""
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


def _sorting(tensor: Description) -> tuple[str, str]:
    return tensor["name"], tensor["sha256"]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
