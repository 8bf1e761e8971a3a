"""The whole OpenAPI document, held to by schemathesis against the application."""

from pathlib import Path
from typing import Any

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
    assert len(checked) == 15


def test_every_call_shows_an_example(bundle_path: Path) -> None:
    document = create_app(Settings(bundle=bundle_path)).openapi()
    schemas = document["components"]["schemas"]

    def has_example(schema: dict[str, Any]) -> bool:
        if "$ref" in schema:
            return has_example(schemas[schema["$ref"].rsplit("/", 1)[1]])
        if "contentMediaType" in schema:  # a file, which no example can show
            return True
        inner = [*schema.get("properties", {}).values(), schema.get("items", {})]
        return "examples" in schema or any(has_example(part) for part in inner if part)

    for path, operations in document["paths"].items():
        if not path.startswith("/api/"):
            continue
        for method, operation in operations.items():
            contents = [operation.get("requestBody", {}), *operation["responses"].values()]
            for content in contents:
                for kind, body in content.get("content", {}).items():
                    shown = "example" in body or has_example(body["schema"])
                    assert shown, f"{method} {path} {kind}"
            for parameter in operation.get("parameters", []):
                assert has_example(parameter["schema"]), f"{method} {path} {parameter['name']}"
