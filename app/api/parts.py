"""What the endpoints share: the parts they call, and for whom."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.attributes import AttributeStore, Custom
from app.engine import Engine, Latent
from app.errors import Problem
from app.latents import LatentStore, Record, unknown
from app.photos import Pixels
from app.settings import Settings
from app.telemetry import Metrics
from model.bundle import Direction


@dataclass(frozen=True)
class Parts:
    settings: Settings
    engine: Engine
    store: LatentStore
    attributes: AttributeStore
    metrics: Metrics
    owner: str = ""  # of the latents that this request makes, and may open
    visitor: str = ""  # of its custom attributes; "" where it can have none

    async def put(self, record: Record) -> str:
        """Keep a record as this request's owner's; its id."""
        return await self.store.put(replace(record, owner=self.owner))

    async def record(self, latent_id: str, *, photo: bool = False) -> Record:
        """A stored record of the model that is served; another owner's is as unknown as one that
        never was."""
        record = await self._own(latent_id, photo)
        if record.model != self.engine.bundle.identity:
            raise Problem(
                409,
                "latent-of-another-model",
                f"The latent belongs to the model {record.model}; this server has "
                f"{self.engine.bundle.identity}. Upload the photograph again.",
            )
        return record

    async def forget(self, latent_id: str) -> None:
        """Raises Problem 404 as `record` does; the model does not matter."""
        await self._own(latent_id)
        await self.store.delete(latent_id)

    async def _own(self, latent_id: str, photo: bool = False) -> Record:
        record = await self.store.get(latent_id, photo=photo)
        if record.owner != self.owner:
            raise unknown()
        return record

    async def customs(self) -> list[Custom]:
        """This visitor's custom attributes for the model that is served."""
        if not self.visitor:
            return []
        kept = await self.attributes.all(self.visitor)
        return [custom for custom in kept if custom.model == self.engine.bundle.identity]

    async def directions(self) -> list[Direction]:
        """All that this visitor can edit by."""
        customs = [custom.direction for custom in await self.customs()]
        return [*self.engine.bundle.directions, *customs]

    async def direction(self, name: str) -> Direction:
        """Raises Problem 422 for a name that is neither built in nor this visitor's own."""
        for direction in self.engine.bundle.directions:
            if direction.name == name:
                return direction
        custom = await self.attributes.get(self.visitor, name) if self.visitor else None
        if custom is None or custom.model != self.engine.bundle.identity:
            known = ", ".join(direction.name for direction in await self.directions())
            raise Problem(
                422, "unknown-attribute", f"There is no attribute {name!r}; there are {known}."
            )
        return custom.direction

    async def readings(self, latents: Iterable[Latent]) -> list[dict[str, float]]:
        """Where each latent lies on every slider, custom ones too."""
        customs = await self.customs()
        return [
            self.engine.bundle.readings(latent)
            | {custom.direction.name: custom.reading(latent) for custom in customs}
            for latent in latents
        ]

    async def move(self, strengths: dict[str, float]) -> "Move":
        """Strengths as what they do to a latent.

        Raises Problem 422 for an attribute that is unknown, or a strength outside its range.
        """
        move = Move({})
        for name, strength in strengths.items():
            move = self.step(await self.direction(name), strength, move)
        return move

    def step(self, direction: Direction, strength: float, before: "Move") -> "Move":
        """A move, and one along a direction after it.

        Raises Problem 422 for a strength outside the direction's range.
        """
        if not direction.min <= strength <= direction.max:
            raise Problem(
                422,
                "strength-out-of-range",
                f"The strength of {direction.name} is {strength}; it must lie from "
                f"{direction.min} to {direction.max}.",
            )
        if any(direction is known for known in self.engine.bundle.directions):
            return replace(before, strengths={**before.strengths, direction.name: strength})
        if not strength:
            return before
        offset = strength * direction.vector.double().numpy()
        return replace(before, offset=offset if before.offset is None else before.offset + offset)

    async def decode(self, latent: Latent, move: "Move | None" = None) -> Pixels:
        """The crop of a latent, moved."""
        if move is None:
            return await self.engine.decode(latent)
        start = latent if move.start is None else move.start
        return await self.engine.decode(start, move.strengths, move.offset)


@dataclass(frozen=True)
class Move:
    """What an edit does to a latent: strengths of built-in directions, which the engine knows, the
    sum of the custom ones, and where they step from, if a face is mixed in."""

    strengths: dict[str, float]
    offset: Latent | None = None
    start: Latent | None = None

    def __bool__(self) -> bool:
        return not (self.offset is None and self.start is None) or any(self.strengths.values())

    @property
    def identity(self) -> list[object]:
        """Two moves of the same identity do the same; strengths of 0 do nothing."""
        strengths = sorted((name, value) for name, value in self.strengths.items() if value)
        vectors = (self.offset, self.start)
        digests = [v if v is None else hashlib.sha256(v.tobytes()).hexdigest() for v in vectors]
        return [strengths, *digests]


async def _parts(connection: HTTPConnection) -> Parts:
    parts: Parts = connection.app.state.parts
    state = connection.state
    return replace(parts, owner=state.owner, visitor=state.visitor)


PartsOf = Annotated[Parts, Depends(_parts)]
