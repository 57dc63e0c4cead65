"""The benchmark of GPUs: its texts and tables, and a rehearsal of all of it on the CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import report
from benchmarks.gpu.models import LENGTHS, LONGEST, texts

ROOT = Path(__file__).parents[2]


def test_texts_have_the_lengths_that_they_are_named_by() -> None:
    for kind, fixed in LENGTHS.items():
        # Each word is one token, and there are two special ones.
        lengths = [len(text.split()) + 2 for text in texts(kind, 200_000)]
        if fixed is not None:
            assert set(lengths) == {fixed}
        else:
            assert 60 < np.mean(lengths) < 76
            assert max(lengths) <= LONGEST
            assert np.median(lengths) < np.mean(lengths)
    assert texts("32", 1000) == texts("32", 1000)


def test_a_part_that_failed_says_why_and_the_others_are_shown(tmp_path: Path) -> None:
    row = dict.fromkeys(report.METHODS, 1000.0)
    kinds = {kind: {**row, "mean_tokens": 50.0, "cosine of packed fp16": 0.9998} for kind in LENGTHS}
    found: dict[str, Any] = {
        "device": "cuda:0",
        "date": "2026-01-02",
        "hardware": {"gpus": ["A GPU, 580"], "cpu": "A CPU"},
        "texts": {"small": kinds, "large": {"failure": "out of memory"}},
        "images": {"ViT-B-32": {"packed fp16, 1 at once": 12.345}},
        "triton": {"1 instance": {"texts_per_second": 7000.0, "gpu_memory_mib": 1234.0}},
        "http": {"1 instance": {"64 connections": {"texts_per_second": 4321.0, "p50": 3.0}}},
    }
    page = report.table(found)
    assert "A GPU, 580" in page
    assert "| small | 512 | 1,000 | 1,000 | 1,000 | 1,000 | 50,000 | 0.999800 |" in page
    assert "| large | out of memory |" in page
    assert "| 1 instance | 64 connections | 4,321.0 |" in page
    assert "1,600,000 tokens/s" in page
    report.draw(found, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_is_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--minutes", "25"]
    subprocess.run([*command, "--into", str(tmp_path)], cwd=ROOT, check=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    for group in ("texts", "images", "triton", "http"):
        assert found[group]
        for name, result in found[group].items():
            assert "failure" not in result, (group, name, result)
    (measured,) = found["texts"].values()
    for kind in LENGTHS:
        assert measured[kind]["cosine of packed fp16"] > 0.999
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md", "gpu.png"}
