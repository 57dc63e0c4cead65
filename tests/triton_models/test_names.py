import pytest

from triton_models.names import InvalidModelName, served_name


@pytest.mark.parametrize(
    ("model_name", "served"),
    [
        ("intfloat/e5-small-v2", "intfloat_e5-small-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers_all-MiniLM-L6-v2"),
        ("local_model", "local_model"),
        ("_private", "_private"),
        ("a" * 96 + "/" + "b" * 96, "a" * 96 + "_" + "b" * 96),
    ],
)
def test_slash_becomes_underscore(model_name: str, served: str) -> None:
    assert served_name(model_name) == served


@pytest.mark.parametrize(
    "model_name",
    ["", "/", "a/", "/a", "a/b/c", "..", "../a", "a/..", "a..b", ".state", "a/.b", "-rf", "a/-b", "a b"],
)
def test_what_could_leave_a_directory_or_become_an_option_is_refused(model_name: str) -> None:
    with pytest.raises(InvalidModelName):
        served_name(model_name)


@pytest.mark.parametrize(
    "model_name",
    ["a\0b", "a\nb", "a\n", "a\\b", "é", "a" * 97, "a" * 300, "a/" + "b" * 97, "$(id)", "a;b", "\ud800"],
)
def test_odd_characters_and_lengths_are_refused(model_name: str) -> None:
    with pytest.raises(InvalidModelName):
        served_name(model_name)
