"""What must happen before any test module imports transformers or open_clip."""

from converters.torchvision_cpu import make_importable

make_importable()
