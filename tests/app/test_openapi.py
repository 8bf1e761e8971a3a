"""The whole OpenAPI document, held to by schemathesis against the application."""

from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.main import create_app
from app.settings import Settings


def test_every_answer_is_as_documented(bundle_path: Path) -> None:
    app = create_app(Settings(bundle=bundle_path))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checked = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            # no schema can say what a photograph, a face or a known attribute is
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
        checked.append(operation.label)
    assert "POST /api/v1/edit" in checked
    assert len(checked) == 11
