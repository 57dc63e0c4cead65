"""What must happen before any test module imports transformers or open_clip."""

from converters.torchvision_shim import make_importable

make_importable()
