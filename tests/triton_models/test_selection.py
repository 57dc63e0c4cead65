"""Choosing an engine by measurement, on a real model."""

import json
from pathlib import Path

import numpy as np
import pytest

from gateway.settings import ENGINE_NAMES
from tests.triton_models.tiny_onnx import write_model
from triton_models.backends.onnxruntime import selection
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.sessions import DEFAULT, ENGINES, UnknownEngine, parse_engine


def test_the_front_end_knows_every_engine() -> None:
    assert ENGINE_NAMES == ("auto", *map(str, ENGINES))


