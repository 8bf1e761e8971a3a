"""Every failure as a problem (RFC 9457): what was wrong, in words, and what is accepted."""

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def problem_document(status: int, kind: str, detail: str, **more: Any) -> dict[str, Any]:
    return {
        "type": f"urn:glow-editor:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }


def problem_response(
    status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    return JSONResponse(
        problem_document(status, kind, detail, **more),
        status,
        headers=headers,
        media_type="application/problem+json",
    )


def invalid_request(errors: Iterable[Any]) -> tuple[str, list[dict[str, str]]]:
    """What pydantic found wrong: in one sentence, and by place."""
    found = [
        {"where": ".".join(str(step) for step in item["loc"]), "what": str(item["msg"])}
        for item in errors
    ]
    return "; ".join(f"{item['where']}: {item['what']}" for item in found), found


EXAMPLES = {  # what the OpenAPI page shows
    400: (
        "bad-request",
        "The request cannot be read: Too many files. Maximum number of files is 1.",
    ),
    401: ("key-needed", "This needs an API key: send one that is accepted as X-API-Key: …."),
    404: ("unknown-latent", "There is no such latent: it has expired, was deleted, or never was."),
    406: ("not-acceptable", "Pictures are answered as image/png, image/webp, image/jpeg."),
    409: ("latent-of-another-model", "The latent belongs to the model faces32."),
    412: ("unchanged", "This is the picture that If-None-Match names; it is not sent again."),
    413: ("body-too-large", "The request is too large; up to 20971520 bytes are accepted."),
    415: ("not-a-photograph", "The file is not a readable picture, or too damaged to be one."),
    422: ("unknown-attribute", "There is no attribute 'smirk'; there are smiling, older."),
    429: ("too-many-requests", "Too many requests; 600 per 1 minute are accepted."),
    503: ("busy", "The model is busy: 256 requests wait already. Try again in a moment."),
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that an endpoint may answer with."""
    schema = ProblemDocument.model_json_schema()
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                "application/problem+json": {
                    "schema": schema,
                    "example": problem_document(status, *EXAMPLES[status]),
                }
            },
        }
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
    detail, errors = invalid_request(error.errors())
    return problem_response(422, "invalid-request", detail, errors=errors)


class Unexpected:
    """Answers a failure that nothing else has: inside every other middleware, whose headers its
    answer carries too, where Starlette's own handler for any exception would be outside them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            log.error("unexpected failure", exc_info=error)
            if started or scope["type"] != "http":
                raise
            response = problem_response(
                500, "internal", "Something went wrong on our side; it was logged."
            )
            await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """To be called before any other middleware is added."""
    app.add_middleware(Unexpected)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
