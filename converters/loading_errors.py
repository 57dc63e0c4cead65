"""Exceptions that a library may raise for a model that it cannot read."""

import pickle

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

# The libraries raise these for files that are damaged or do not fit together.
LOADING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    TypeError,
    AttributeError,
    ImportError,
    AssertionError,
    EOFError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
)
