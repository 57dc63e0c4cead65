"""How many cases each property is tried with in the suite; `scripts/fuzz` tries as many as time allows."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

settings.register_profile(
    "suite",
    max_examples=60,
    deadline=None,
    # The same cases every time: a suite that fails now and then teaches to run it again.
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="module")
def _pillow_s_own_limit() -> Iterator[None]:
    """Reading an image sets it for the whole process, which is the front end's but not the tests'."""
    limit = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = limit
