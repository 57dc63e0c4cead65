"""Requests made from the OpenAPI, fitting and unfitting, at the running server: it answers as described.

Short; with SCHEMATHESIS_EXAMPLES each operation is tried so often, with other requests at each run.
"""

import os
from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.application import create_app
from gateway.settings import Settings
from tests.conftest import MINILM, Server

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
CHANGES = {
    "/load_sentence_transformer_model",
    "/load_clip_model",
    "/load_model",
    "/unload_model",
    "/delete_model",
}
"""No other test's model may be touched, and looking for one takes seconds."""
NAMES = {"model_name", "name", "model"}
MOST_CHANGES = 3

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES")

described = schemathesis.openapi.from_dict(create_app(Settings(load_models=())).openapi())
changed: Counter[str] = Counter()


def aim(case: Case[Any]) -> None:
    """Most names that are made up are of no model: put one there that is, or surely is not."""
    name = "nobody/none" if case.path in CHANGES else MINILM
    if "model" in case.path_parameters:
        case.path_parameters["model"] = name
    if isinstance(case.body, dict):
        for field in NAMES & case.body.keys():
            if isinstance(case.body[field], str):
                case.body = {**case.body, field: name}


@described.parametrize()
@settings(
    max_examples=int(EXAMPLES or 10),
    deadline=None,
    derandomize=EXAMPLES is None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: Case[Any], server: Server) -> None:
    aim(case)
    changed[case.path] += case.path in CHANGES
    if changed[case.path] <= MOST_CHANGES:
        case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)
