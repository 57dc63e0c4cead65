"""Names of models: never a path, the same model each way it is written, no two models in one place."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog
from tests.fuzz.mutations import one_line
from tests.fuzz.test_repository import repository
from triton_models.contract.names import InvalidModelName

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def names() -> st.SearchStrategy[str]:
    """Like names, and what might get through."""
    pieces = st.sampled_from(
        (
            "a",
            "owner",
            "name",
            "/",
            "//",
            "_",
            ":",
            ".",
            "..",
            "-",
            "hf-hub:",
            "~",
            "\0",
            "\n",
            " ",
            "%2e",
            "\\",
            "_text_encoder",
            "_image_encoder",
            "é",
            "\u2024",
            "\uff0f",
            ".pt",
            "C:",
            "*",
            "$(a)",
            "--output",
            "x" * 96,
        )
    )
    return st.lists(pieces | st.text(max_size=3), max_size=6).map("".join)


@given(names(), st.none() | names())
def test_a_name_in_triton_is_one_part_of_a_path(model_name: str, pretrained: str | None) -> None:
    try:
        model_id = ModelId.named(model_name, pretrained)
    except InvalidModelName as error:
        one_line(error)
        return
    for triton_name in model_id.triton_names:
        assert PART.fullmatch(triton_name)
        assert ".." not in triton_name
        assert len(triton_name) < 250
    assert len(set(model_id.triton_names)) == 1 + model_id.is_clip
    assert ModelId.parse(model_id.id) == model_id


@given(names())
def test_any_word_is_a_model_or_none(word: str) -> None:
    with repository() as made:
        catalog = Catalog(made)
        try:
            model_id = catalog._named(word, ModelId.parse(word))
        except (InvalidModelName, GatewayError):
            return
        try:
            model = catalog._read_text(model_id)
        except GatewayError:
            return
        # The one that is there, by its own name or by its name in Triton.
        assert word in ("owner/name", "owner_name")
        assert model.model_id.model_name == "owner/name"


@given(names(), st.none() | names(), names(), st.none() | names())
def test_two_models_of_one_name_in_triton_are_told_apart(
    name: str, tag: str | None, other: str, other_tag: str | None
) -> None:
    try:
        one, two = ModelId.named(name, tag), ModelId.named(other, other_tag)
    except InvalidModelName:
        return
    assert (one == two) == (one.id == two.id)
