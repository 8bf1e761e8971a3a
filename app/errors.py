"""Every failure as a problem (RFC 9457): what was wrong, in words, and what is accepted."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)


class ProblemDocument(BaseModel):
    """RFC 9457, section 3.1."""

    type: str
    title: str
    status: int
    detail: str


class Problem(HTTPException):
    """A failure to be told to the client; `kind` names it for programs."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.more = more


def problem_response(
    status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    return JSONResponse(
        {
            "type": f"urn:glow-editor:{kind}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            **more,
        },
        status,
        headers=headers,
        media_type="application/problem+json",
    )


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that an endpoint may answer with."""
    content = {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


FRAMEWORK = {  # what is answered before an endpoint is reached
    400: ("bad-request", "The request cannot be read: {detail}."),
    404: ("not-found", "There is nothing at this address; /docs lists what there is."),
    405: (
        "method-not-allowed",
        "This address takes other methods; /docs lists them.",
    ),
}


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, headers = error.status_code, dict(error.headers or {})
    if isinstance(error, Problem):
        return problem_response(status, error.kind, error.detail, headers, **error.more)
    kind, words = FRAMEWORK.get(status, ("http", "{detail}"))
    return problem_response(status, kind, words.format(detail=error.detail), headers)


async def _validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": ".".join(str(step) for step in item["loc"]), "what": item["msg"]}
        for item in error.errors()
    ]
    detail = "; ".join(f"{item['where']}: {item['what']}" for item in errors)
    return problem_response(422, "invalid-request", detail, errors=errors)


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    log.error("unexpected failure", exc_info=error)
    return problem_response(500, "internal", "Something went wrong on our side; it was logged.")


def install(app: FastAPI) -> None:
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unexpected)
