"""An ordinary ONNX export for the peers that need one: padded batches in, token vectors out.

It runs in the environment `infinity`, which has optimum. Usage: python export_onnx.py MODEL_DIRECTORY OUTPUT
"""

import json
import sys
from pathlib import Path

from optimum.exporters.onnx import main_export  # type: ignore[import-not-found]


def main(model: Path, output: Path) -> None:
    """Export the model, and make every reader truncate texts where sentence-transformers does."""
    main_export(str(model), output=str(output), task="feature-extraction", library_name="transformers")
    limit = json.loads((model / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    # infinity's optimum engine truncates at the first value, fastembed at the least of the others.
    changes = {
        "config.json": {"max_position_embeddings": limit},
        "tokenizer_config.json": {"model_max_length": limit, "max_length": limit},
    }
    for name, change in changes.items():
        file = output / name
        content = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**content, **change}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
