"""Check of a tokenizer that is a file of sentencepiece, without a `tokenizer.json`.

transformers reads such a file when it loads the model. If it cannot, it takes the file for one of another
library, and its message then names a package that the model does not need.
"""

from pathlib import Path

from google.protobuf.message import DecodeError

from converters.errors import InvalidModel


def check(home: Path) -> None:
    """Refuse a directory without `tokenizer.json` if its file of sentencepiece cannot be read.

    Raises:
        InvalidModel: The file is damaged, or of another library.
    """
    for path in sorted(home.glob("*.model")):
        if path.is_file() and not _is_readable(path):
            raise InvalidModel(
                f"{path.name} is no model of sentencepiece, or is damaged; download it again, or save the "
                "tokenizer with transformers, which writes a tokenizer.json"
            )


def _is_readable(path: Path) -> bool:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return False
    return len(model.pieces) > 0
