"""Which of a repository's files are fetched. The Hub itself is out of reach in tests."""

from converters.hub import needed, repository_ids


def test_one_form_of_the_weights_and_no_code() -> None:
    read = {
        "config.json",
        "modules.json",
        "tokenizer.json",
        "vocab.txt",
        "README.md",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
    }
    left = {
        "pytorch_model.bin",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "modeling_custom.py",
        "image.png",
    }
    assert set(needed(sorted(read | left))) == read


def test_shards_are_fetched_whole() -> None:
    files = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert sorted(needed(files)) == sorted(files)


def test_a_bare_name_is_also_one_of_the_library_s_own() -> None:
    assert repository_ids("owner/model") == ("owner/model",)
    assert repository_ids("model") == ("sentence-transformers/model", "model")
