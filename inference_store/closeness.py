"""Comparison of a request with a record: whether the record suffices, the distance, and the differences."""

from dataclasses import replace
from typing import Any

from inference_store.identity import Description
from inference_store.protocol import STREAM, InferResponse, Message, StreamResponse
from inference_store.record import Record
from inference_store.tensors import FLOATS, FORMATS, MalformedTensor, raw_contents, split_bytes, unpack

_WEIGHTS = {"content": 1, "parameter": 2, "version": 3, "outputs": 3, "after": 3, "input": 8}
_SHOWN = 60


def suffices(wanted: Description, record: Record) -> bool:
    """Return whether the recorded answer has the wanted outputs; a request that names none wants all."""
    recorded = record.description
    if "outputs" not in wanted:
        return "outputs" not in recorded
    if "outputs" in recorded:
        return all(output in recorded["outputs"] for output in wanted["outputs"])
    answered: set[str] = set()
    for answer in _answers(record):
        answered.update(output.name for output in answer.outputs)
    return all("parameters" not in output and output["name"] in answered for output in wanted["outputs"])


def narrowed(record: Record, wanted: Description) -> Record:
    """Return the record with only the wanted outputs, in the order of the record's answer."""
    if "outputs" not in wanted or wanted["outputs"] == record.description.get("outputs"):
        return record
    names = {output["name"] for output in wanted["outputs"]}
    stream = record.description["method"] == STREAM
    answers = []
    for data in record.outcome.answers:
        answer = (StreamResponse if stream else InferResponse).FromString(data)
        _narrow(answer.infer_response if stream else answer, names)
        answers.append(answer.SerializeToString(deterministic=True))
    return replace(record, outcome=replace(record.outcome, answers=tuple(answers)))


def _answers(record: Record) -> list[Message]:
    if record.description["method"] == STREAM:
        return [StreamResponse.FromString(data).infer_response for data in record.outcome.answers]
    return [InferResponse.FromString(data) for data in record.outcome.answers]


def _narrow(answer: Message, names: set[str]) -> None:
    raw = list(answer.raw_output_contents)
    kept = [index for index, output in enumerate(answer.outputs) if output.name in names]
    outputs = [answer.outputs[index] for index in kept]
    del answer.outputs[:]
    answer.outputs.extend(outputs)
    if raw:
        del answer.raw_output_contents[:]
        answer.raw_output_contents.extend(raw[index] for index in kept)


def largest_difference(request: Message, recorded: Message) -> float:
    """Return the largest absolute difference between elements of float inputs of equal shapes.

    It is infinite if one of two elements is NaN.
    """
    largest = 0.0
    theirs = _contents(recorded)
    for name, (datatype, content) in _contents(request).items():
        if datatype in FLOATS and content != theirs[name][1]:
            pairs = zip(unpack(datatype, content), unpack(datatype, theirs[name][1]), strict=True)
            for one, other in pairs:
                apart = abs(one - other) if one != other else 0.0  # type: ignore[operator] # floats
                # `apart` is NaN if an element is, and every comparison with NaN is false.
                largest = max(largest, apart) if apart >= 0 else float("inf")
    return largest


def distance(wanted: Description, recorded: Description) -> int:
    """Return a number for how much two descriptions of one model differ."""
    total = sum(_WEIGHTS[kind] for kind, _ in _differing(wanted, recorded))
    mine, theirs = _by_name(wanted), _by_name(recorded)
    return total + sum(
        _WEIGHTS["content"]
        for name in mine.keys() & theirs.keys()
        if mine[name]["sha256"] != theirs[name]["sha256"]
    )


def differences(wanted: Description, recorded: Description) -> list[str]:
    """Return the differences in words, except those of the inputs' content."""
    return [text for _, text in _differing(wanted, recorded)]


def first_difference(request: Message, recorded: Message) -> tuple[int, list[str]]:
    """Return how many elements of the inputs differ, and for each input the first difference in words."""
    count, texts = 0, []
    try:
        mine, theirs = _contents(request), _contents(recorded)
    except MalformedTensor:
        return 0, []
    for name, (datatype, content) in mine.items():
        if name not in theirs or theirs[name][1] == content or theirs[name][0] != datatype:
            continue
        here, there = _elements(name, datatype, content), _elements(name, datatype, theirs[name][1])
        if len(here) != len(there):
            continue
        apart = [index for index, (one, other) in enumerate(zip(here, there, strict=True)) if one != other]
        if apart:
            first = apart[0]
            texts.append(
                f"input '{name}': {len(apart)} of {len(here)} elements, first at {first}: "
                f"{_short(here[first])} here, {_short(there[first])} recorded"
            )
        count += len(apart)
    return count, texts


def _differing(wanted: Description, recorded: Description) -> list[tuple[str, str]]:
    """Return (kind, text) of each difference, except those of the inputs' content."""
    found = []
    for field in ("version", "after"):
        if wanted.get(field, "") != recorded.get(field, ""):
            found.append((field, _texts(field, wanted.get(field), recorded.get(field))))
    if wanted.get("malformed") != recorded.get("malformed"):
        found.append(
            ("input", "the tensors here do not fit themselves" if wanted.get("malformed") else "its tensors")
        )
    found += _differing_parameters("parameter", wanted, recorded)
    mine, theirs = _by_name(wanted), _by_name(recorded)
    for name in sorted(mine.keys() | theirs.keys()):
        one, other = mine.get(name), theirs.get(name)
        if one is None or other is None:
            found.append(("input", f"input '{name}' is {'not here' if one is None else 'not recorded'}"))
            continue
        for field in ("datatype", "shape"):
            if one[field] != other[field]:
                found.append(("input", _texts(f"{field} of input '{name}'", one[field], other[field])))
        found += _differing_parameters(f"input '{name}', parameter", one, other)
    if wanted.get("outputs") != recorded.get("outputs"):
        here, there = (_outputs(described) for described in (wanted, recorded))
        found.append(("outputs", _texts("requested outputs", here, there)))
    return found


def _differing_parameters(label: str, one: Description, other: Description) -> list[tuple[str, str]]:
    mine, theirs = one.get("parameters", {}), other.get("parameters", {})
    return [
        ("parameter", _texts(f"{label} '{name}'", mine.get(name), theirs.get(name)))
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def _outputs(described: Description) -> str:
    return ", ".join(
        _short(output) if "parameters" in output else output["name"]
        for output in described.get("outputs", [])
    )


def _texts(what: str, here: object, there: object) -> str:
    return f"{what}: {_short(here)} here, {_short(there)} recorded"


def _short(value: object) -> str:
    """Format a value for a line of text."""
    if value is None or value == "":
        return "none"
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _by_name(described: Description) -> dict[str, Description]:
    return {tensor["name"]: tensor for tensor in described.get("inputs", [])}


def _contents(request: Message) -> dict[str, tuple[str, bytes]]:
    """Return the datatype and the raw content of each input."""
    return {
        tensor.name: (tensor.datatype, content)
        for tensor, content in zip(request.inputs, raw_contents(request), strict=True)
    }


def _elements(name: str, datatype: str, content: bytes) -> Any:  # noqa: ANN401 - a sequence of whatever the datatype is
    if datatype == "BYTES":
        return split_bytes(name, content)
    return unpack(datatype, content) if datatype in FORMATS else memoryview(content).cast("H")
