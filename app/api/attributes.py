"""What faces can be edited by: the model's attributes, and those of one's own."""

import secrets
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile

from app.api.parts import Parts, PartsOf
from app.attributes import Custom
from app.errors import Problem, problem_responses
from app.examples import crops_of, direction_of
from app.limits import VISITOR_COOKIE, visitor_of
from app.schemas import Attribute, AttributeName

router = APIRouter(tags=["attributes"])

FEWEST, MOST = 3, 32  # examples of each kind
MOST_ATTRIBUTES = 16  # of one visitor


@router.get("/attributes", responses=problem_responses(503))
async def attributes(parts: PartsOf) -> list[Attribute]:
    """The attributes that faces can be edited by, your own after the model's."""
    return [
        *(Attribute.of(direction, "built-in") for direction in parts.engine.bundle.directions),
        *(Attribute.of(custom.direction, "custom") for custom in await parts.customs()),
    ]


Examples = list[UploadFile]


@router.post(
    "/attributes",
    status_code=201,
    responses=problem_responses(400, 409, 413, 422, 503),
    form_limits={"max_files": 2 * MOST, "max_fields": 4},
)
async def create(
    parts: PartsOf,
    request: Request,
    response: Response,
    name: Annotated[AttributeName, Form()],
    positive: Annotated[
        Examples,
        File(
            alias="positive[]",
            min_length=FEWEST,
            max_length=MOST,
            description="Photographs of faces with the attribute.",
        ),
    ],
    negative: Annotated[
        Examples,
        File(
            alias="negative[]",
            min_length=FEWEST,
            max_length=MOST,
            description="Photographs of faces without it, otherwise much like the others.",
        ),
    ],
) -> Attribute:
    """An attribute from photographs of faces with it and without, at least three of each; more
    make it better. It is yours alone: it belongs to your API key, or without keys to the browser
    that holds the cookie this answers with, and is forgotten after the time to live. The
    photographs themselves are not kept."""
    token = request.cookies.get(VISITOR_COOKIE) or secrets.token_urlsafe(16)
    visitor = parts.owner or visitor_of(token)
    await _check_free(parts, visitor, name)
    uploads = [
        (f"{kind} {number}", upload)
        for kind, examples in (("positive", positive), ("negative", negative))
        for number, upload in enumerate(examples, 1)
    ]
    crops = await crops_of(uploads, parts.engine.bundle, parts.settings.max_pixels)
    count = len(positive)
    direction = await direction_of(parts.engine, name, crops[:count], crops[count:])
    await parts.attributes.put(visitor, Custom(direction, parts.engine.bundle.identity))
    if not parts.owner:
        response.set_cookie(
            VISITOR_COOKIE,
            token,
            max_age=parts.settings.time_to_live,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
    return Attribute.of(direction, "custom")


async def _check_free(parts: Parts, visitor: str, name: str) -> None:
    """Raises Problem 409 for a name that is taken, and where there are too many already."""
    directions = await replace(parts, visitor=visitor).directions()
    if name in {direction.name for direction in directions}:
        raise Problem(
            409, "attribute-exists", f"There is an attribute {name} already; choose another name."
        )
    if len(directions) - len(parts.engine.bundle.directions) >= MOST_ATTRIBUTES:
        raise Problem(
            409,
            "too-many-attributes",
            f"You have {MOST_ATTRIBUTES} attributes of your own, and no more are kept; delete one.",
        )


@router.delete(
    "/attributes/{name}", status_code=204, responses=problem_responses(404, 409, 422, 503)
)
async def delete(parts: PartsOf, name: Annotated[AttributeName, Path()]) -> None:
    """Forget an attribute of your own."""
    if name in {direction.name for direction in parts.engine.bundle.directions}:
        raise Problem(
            409,
            "built-in-attribute",
            f"{name} is built into the model and cannot be deleted; only your own attributes can.",
        )
    if not (parts.visitor and await parts.attributes.delete(parts.visitor, name)):
        raise Problem(
            404,
            "unknown-attribute",
            f"You have no attribute {name}: it has expired, was deleted, or never was.",
        )
