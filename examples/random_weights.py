r"""Writes seeded random weights of an open_clip model, to try a server that cannot reach the Hub.

    .venv/bin/python -m examples.random_weights models/ViT-B-32.random.pt
    MODEL_SOURCES=models scripts/serve
    .venv/bin/python -m examples.search_pictures ~/Pictures "a cat" --sheet found.png \
        --pretrained ViT-B-32.random.pt --random-weights

Everything works as with real weights, at the same speed, but the results mean nothing.
"""

import argparse
from pathlib import Path

from converters.torchvision_shim import make_importable


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE.pt")
    parser.add_argument("--model", default="ViT-B-32", help="one of open_clip.list_models()")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_importable()  # before open_clip
    import open_clip
    import torch

    torch.manual_seed(options.seed)
    model = open_clip.create_model(options.model, load_weights=False)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), options.file)


if __name__ == "__main__":
    main()
