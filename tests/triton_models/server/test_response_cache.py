from pathlib import Path

import pytest

from triton_models.client.errors import EmbeddedTritonError
from triton_models.server.response_cache import DEFAULT_RESPONSE_CACHE, cache_arguments, parse_response_cache


def _caches(tmp_path: Path, *kinds: str) -> Path:
    for kind in kinds:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"libtritoncache_{kind}.so").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("off", []),
        ("local:1048576", ["--cache-config=local,size=1048576"]),
        (DEFAULT_RESPONSE_CACHE, ["--cache-config=local,size=134217728"]),
        (
            "redis://cache.local:6379",
            ["--cache-config=redis,host=cache.local", "--cache-config=redis,port=6379"],
        ),
    ],
)
def test_what_triton_is_told(tmp_path: Path, value: str, options: list[str]) -> None:
    arguments = cache_arguments(parse_response_cache(value), _caches(tmp_path, "local", "redis"))
    assert [each for each in arguments if not each.startswith("--cache-directory=")] == options


REFUSED = "|on|Off|local|local:|local:0|local:-1|local:1MB|local:1 |local:1,password=x|redis://|redis://h|redis://h:0"


@pytest.mark.parametrize(
    "value", [*REFUSED.split("|"), "redis://h:65536", "redis://u:p@h:1", "redis://h:1/2", "local:1\n"]
)
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be local:SIZE_IN_BYTES"):
        parse_response_cache(value)


def test_a_cache_without_its_library_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedTritonError, match="RESPONSE_CACHE"):
        cache_arguments(parse_response_cache("redis://h:1"), _caches(tmp_path, "local"))
