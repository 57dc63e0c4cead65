"""Every module of sentence-transformers is served or refused, as docs/reference/models.md lists it."""

import json
from pathlib import Path

import pytest
from sentence_transformers.sentence_transformer import modules

from converters.errors import InvalidModel
from converters.sources.inspection import SUPPORTED_MODULES, inspect
from tests.support.tables import check_row

HEADING = "Modules of sentence-transformers"


@pytest.mark.parametrize("name", sorted({*modules.__all__} - {"Module", "InputModule"}))
def test_a_module_is_served_or_refused(name: str, tmp_path: Path) -> None:
    if name in SUPPORTED_MODULES:
        check_row(HEADING, f"`{name}`", "served")
        return
    kinds = ("Transformer", name)
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InvalidModel, match=name) as refused:
        inspect(tmp_path, trust_remote_code=False)
    check_row(HEADING, f"`{name}`", f"refused: {refused.value}")
