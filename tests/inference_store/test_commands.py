"""The command line: settings and where they come from, and ls, show, verify, prune."""

import os
from dataclasses import fields
from pathlib import Path

import pytest

from inference_store.directory import RecordFiles
from inference_store.identity import Matching
from inference_store.settings import Settings, SettingsError, read_settings
from inference_store.store import Mode
from tests.inference_store import processes
from tests.inference_store.made_record import record

README = processes.ROOT / "inference_store" / "README.md"


def test_options_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "store.yaml"
    file.write_text("mode: serve\nttl: 5\npath: from_file\nhttp_listen: off\nignore_parameters: [a, b]\n")
    environment = {
        "INFERENCE_STORE_CONFIG": str(file),
        "INFERENCE_STORE_TTL": "6",
        "INFERENCE_STORE_PATH": "from_env",
    }
    settings = read_settings({"path": "from_option"}, environment)
    assert (settings.mode, settings.path, settings.ttl) == (Mode.SERVE, Path("from_option"), 6.0)
    assert settings.http_listen == "off"
    assert settings.matching == Matching(frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        ({}, {}, "--target HOST:PORT is needed in mode auto"),
        ({"mode": "replay"}, {}, "--mode: must be serve, collect or auto (got 'replay')"),
        ({"target": "http://triton:8001"}, {}, "--target: must be HOST:PORT"),
        (
            {"mode": "serve", "max_record_bytes": "0"},
            {},
            "--max-record-bytes: must be a number of bytes above 0",
        ),
        ({"mode": "serve"}, {"INFERENCE_STORE_TOLERANCE": "-1"}, "INFERENCE_STORE_TOLERANCE: must be 0 or"),
        ({"mode": "serve", "backend": "disk"}, {}, "--backend: must be directory, memory or redis://"),
        ({"config": "/nowhere.yaml"}, {}, "/nowhere.yaml cannot be read"),
    ],
)
def test_an_unusable_setting_is_named(
    options: dict[str, str], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        read_settings(options, environment)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_with_an_unknown_setting(tmp_path: Path) -> None:
    file = tmp_path / "store.yaml"
    file.write_text("tolerence: 1\n")
    with pytest.raises(SettingsError, match="unknown setting tolerence"):
        read_settings({"config": str(file)}, {})


def test_the_readme_has_every_setting() -> None:
    text = README.read_text()
    for setting in fields(Settings):
        assert f"`--{setting.name.replace('_', '-')}`" in text, setting.name


def test_ls_show_verify_and_prune(tmp_path: Path) -> None:
    files, made = RecordFiles(tmp_path), [record(float(value)) for value in range(3)]
    for each in made:
        files.write(each)
    path = ("--path", str(tmp_path))
    listed = processes.run("ls", *path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == sorted(each.key[:12] for each in made)
    assert all("X:FP32[1]" in line and "250.0ms" in line for line in listed)
    assert processes.run("ls", *path, "--model", "other").stdout == ""
    shown = processes.run("show", *path, made[1].key[:10], "--tensors").stdout
    assert made[1].key in shown
    assert '"took_ms": 250.0' in shown
    assert "raw_input_contents" in shown
    missing = processes.run("show", *path, "zz")
    assert (missing.returncode, missing.stderr) == (2, "inference_store: no records begin with zz\n")
    assert processes.run("verify", *path).stdout == "3 records, 0 damaged or unreadable\n"

    damaged = files.file(made[0].key)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    os.rename(files.file(made[1].key), files.file("0" * 64))
    found = processes.run("verify", *path)
    assert found.returncode == 1
    assert f"record {made[0].key} is damaged: its checksum differs" in found.stdout
    assert f"record {'0' * 64} is damaged: it is the record {made[1].key}" in found.stdout
    assert damaged.exists(), "verify changes nothing"

    assert processes.run("prune", *path).returncode == 2
    would = processes.run("prune", *path, "--model", "m", "--dry-run").stdout
    assert made[2].key in would
    assert files.file(made[2].key).exists()
    assert processes.run("prune", *path, "--older-than", "1h").stdout.count("removed") == 0
    assert processes.run("prune", *path, "--model", "m").returncode == 0
    assert not files.file(made[2].key).exists()
    assert processes.run("prune", "--path", str(tmp_path / "none")).returncode == 2
