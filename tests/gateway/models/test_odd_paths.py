"""The whole server in directories whose names hold what shells, libraries and locales stumble over."""

import shutil
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import ROOT, Server
from tests.support.converted_models import BERT, Stock

ODD = 'the sérver\'s; $(exit 1) & "own" 模型'


def test_it_measures_and_serves_there(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / ODD
    project = odd / "project"
    project.mkdir(parents=True)
    for part in ("gateway", "converters", "triton_models"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "app.py", project / "app.py")
    (odd / "sources").mkdir()
    [served] = stock.put(odd / "repository", BERT)
    [record] = served.glob("*/engine.json")
    record.unlink()
    (odd / "environment").symlink_to(sys.prefix)
    (odd / "tmp").mkdir()
    monkeypatch.setattr(conftest, "ROOT", project)
    monkeypatch.setattr(sys, "executable", str(odd / "environment" / "bin" / Path(sys.executable).name))
    settings = {"MODEL_SOURCES": str(odd / "sources"), "TMPDIR": str(odd / "tmp"), "LC_ALL": "C"}
    server = Server(odd / "repository", settings, tmp_path / "server.log")
    with server.running(), server.client() as client:
        loaded = client.post("/load_sentence_transformer_model", json={"model_name": BERT})
        assert loaded.status_code == 200, loaded.text
        answer = client.post("/infer_text", json={"model_name": BERT, "text": ["a diver", "a dog"]})
        assert answer.status_code == 200, answer.text
    assert record.is_file()
