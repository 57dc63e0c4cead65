import pytest

from triton_models.contract.names import ClipNames, InvalidModelName, clip_triton_names, triton_name_of


@pytest.mark.parametrize(
    ("model_name", "triton_name"),
    [
        ("intfloat/e5-small-v2", "intfloat_e5-small-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers_all-MiniLM-L6-v2"),
        ("local_model", "local_model"),
        ("_private", "_private"),
        ("a" * 96 + "/" + "b" * 96, "a" * 96 + "_" + "b" * 96),
    ],
)
def test_slash_becomes_underscore(model_name: str, triton_name: str) -> None:
    assert triton_name_of(model_name) == triton_name


@pytest.mark.parametrize(
    "model_name",
    ["", "/", "a/", "/a", "a/b/c", "..", "../a", "a/..", "a..b", ".state", "a/.b", "-rf", "a/-b", "a b"],
)
def test_what_could_leave_a_directory_or_become_an_option_is_refused(model_name: str) -> None:
    with pytest.raises(InvalidModelName):
        triton_name_of(model_name)


@pytest.mark.parametrize(
    "model_name",
    ["a\0b", "a\nb", "a\n", "a\\b", "é", "a" * 97, "a" * 300, "a/" + "b" * 97, "$(id)", "a;b", "\ud800"],
)
def test_odd_characters_and_lengths_are_refused(model_name: str) -> None:
    with pytest.raises(InvalidModelName):
        triton_name_of(model_name)


@pytest.mark.parametrize(
    ("model_name", "pretrained", "stem"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k", "ViT-B-32_laion2b_s34b_b79k"),
        ("coca_ViT-B-32", "weights.safetensors", "coca_ViT-B-32_weights.safetensors"),
        ("hf-hub:timm/ViT-B-16-SigLIP", "", "hf-hub_timm_ViT-B-16-SigLIP"),
    ],
)
def test_a_clip_model_is_served_under_two_names(model_name: str, pretrained: str, stem: str) -> None:
    expected = ClipNames(f"{stem}_text_encoder", f"{stem}_image_encoder")
    assert clip_triton_names(model_name, pretrained) == expected


@pytest.mark.parametrize(
    ("model_name", "pretrained"),
    [
        ("ViT-B-32", ""),
        ("ViT-B/32", "openai"),
        ("ViT-B-32", "../weights.pt"),
        ("ViT-B-32", "a/b.pt"),
        ("ViT-B-32", "/etc/passwd"),
        ("ViT-B-32", ".hidden"),
        ("ViT-B-32", "-x"),
        ("", "openai"),
        ("local-dir:/etc", ""),
        ("hf-hub:", ""),
        ("hf-hub:../x", ""),
        ("hf-hub:a/b/c", ""),
        ("hf-hub:a/b", "openai"),
        ("hf-hub:" + "a" * 97 + "/b", ""),
        ("ViT-B-32", "a\n"),
    ],
)
def test_clip_names_that_are_none(model_name: str, pretrained: str) -> None:
    with pytest.raises(InvalidModelName):
        clip_triton_names(model_name, pretrained)
