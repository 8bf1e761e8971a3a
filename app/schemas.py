"""What goes over the wire."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from app import faces
from model.bundle import Direction

MOST_STEPS = 24  # of a strip: at 512 pixels each, they still fit a WebP

# What the examples on the OpenAPI page are of.
LATENT, ANOTHER = "evwzVcYjxa7XIxV8dAOTlA", "q0XG3uV7Q1yHkWm2b8Zt5w"
READINGS: JsonDict = {"smiling": -0.227, "older": 0.11, "eyeglasses": -0.341}


def _example(*examples: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [*examples]})


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """Pydantic itself would not say which fields there are."""
        if isinstance(value, dict) and (unknown := [n for n in value if n not in cls.model_fields]):
            raise PydanticCustomError(
                "extra_forbidden",
                "There is no field {unknown}; there are {known}",
                {"unknown": ", ".join(unknown), "known": ", ".join(cls.model_fields)},
            )
        return value


LatentId = Annotated[
    str,
    Field(
        description="As given by /encode or /sample.",
        pattern=r"^[A-Za-z0-9_-]{22}$",
        examples=[LATENT],
    ),
]
AttributeName = Annotated[
    str,
    Field(
        description="Letters, digits, - and _, up to 40.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$",
        examples=["freckles"],
    ),
]
Strength = Annotated[float, Field(allow_inf_nan=False)]


class Status(BaseModel):
    status: Literal["ok", "ready"]


class ModelDescription(BaseModel):
    model_config = _example(
        {
            "name": "faces128",
            "resolution": 128,
            "levels": 5,
            "parameters": 2_662_838,
            "bits_per_dim": 2.3954,
            "card": {"licence": "CC BY 4.0"},
            "time_to_live": 3600,
        },
    )

    name: str
    resolution: int = Field(description="Side of a crop, in pixels.")
    levels: int
    parameters: int
    bits_per_dim: float | None = Field(description="Of the validation images.")
    card: dict[str, Any] = Field(description="What the model was trained on, and its terms.")
    time_to_live: int = Field(description="Seconds that this server keeps a latent.")


class Counts(BaseModel):
    positive: int = Field(description="Images with the attribute, behind its mean.")
    negative: int = Field(description="Images without it.")


class Attribute(BaseModel):
    model_config = _example(
        {
            "name": "smiling",
            "label": "Smile",
            "group": "Expression",
            "kind": "built-in",
            "min": -1.5,
            "max": 1.0,
            "std": 0.22,
            "counts": {"positive": 5545, "negative": 5521},
        },
    )

    name: str
    label: str
    group: str
    kind: Literal["built-in", "custom"]
    min: float = Field(description="Least strength.")
    max: float = Field(description="Greatest strength.")
    std: float = Field(description="Standard deviation of the data's readings.")
    counts: Counts

    @classmethod
    def of(cls, direction: Direction, kind: Literal["built-in", "custom"]) -> "Attribute":
        return cls(
            name=direction.name,
            label=direction.label,
            group=direction.group,
            kind=kind,
            min=direction.min,
            max=direction.max,
            std=direction.std,
            counts=Counts(positive=direction.positives, negative=direction.negatives),
        )


class Box(BaseModel):
    x: float = Field(description="Left edge before turning, in pixels of the photograph.")
    y: float = Field(description="Top edge before turning.")
    size: float = Field(description="Side of the square.")


class Face(BaseModel):
    found: bool = Field(description="Whether a face was found; else the box was given.")
    box: Box
    angle: float = Field(description="Degrees clockwise about the middle of the box.")
    confidence: float = Field(description="Of the detection, 0 to 1.")

    @classmethod
    def at(cls, box: faces.Box, found: bool, confidence: float) -> "Face":
        return cls(
            found=found,
            box=Box(x=box.x, y=box.y, size=box.size),
            angle=box.angle,
            confidence=confidence,
        )


Readings = Annotated[
    dict[str, float],
    Field(
        description="Where this face lies on each attribute's slider: -0.5 is the mean face "
        "without it, +0.5 the mean face with it."
    ),
]
ExpiresIn = Annotated[int, Field(description="Seconds until the latent is forgotten.")]


class Encoded(BaseModel):
    model_config = _example(
        {
            "latent_id": LATENT,
            "face": {
                "found": True,
                "box": {"x": 161.7, "y": 60.3, "size": 124},
                "angle": 3.3,
                "confidence": 0.94,
            },
            "others": [],
            "readings": READINGS,
            "bits_per_dim": 3.43,
            "expires_in": 3600,
        },
    )

    latent_id: LatentId
    face: Face
    others: list[Face] = Field(
        description="Further faces that were found; give the box of one as align to take it."
    )
    readings: Readings
    bits_per_dim: float = Field(description="Of this crop; lower is more typical of the model.")
    expires_in: ExpiresIn


class Sampled(BaseModel):
    model_config = _example(
        {"latent_id": LATENT, "readings": READINGS, "expires_in": 3600},
    )

    latent_id: LatentId
    readings: Readings
    expires_in: ExpiresIn


class LatentDescription(BaseModel):
    model_config = _example(
        {
            "latent_id": LATENT,
            "model": "faces128",
            "shapes": [[9, 64, 64], [6, 32, 32], [12, 16, 16], [24, 8, 8], [96, 4, 4]],
            "has_photo": True,
            "expires_in": 3541,
        },
    )

    latent_id: LatentId
    model: str
    shapes: list[tuple[int, int, int]] = Field(
        description="Channels, height and width of each part, levels in order."
    )
    has_photo: bool
    expires_in: ExpiresIn


class DecodeRequest(Request):
    model_config = _example(
        {"latent_id": LATENT},
    )

    latent_id: LatentId


class Mixing(Request):
    latent_id: LatentId
    t: float = Field(
        ge=0, le=1, allow_inf_nan=False, description="How far to go to it, as /mix goes."
    )


class MoveRequest(Request):
    latent_id: LatentId
    attributes: dict[str, Strength] = Field(
        default_factory=dict, description="Strength by attribute, each within its min and max."
    )
    mix: Mixing | None = Field(None, description="Another face, mixed in before the strengths.")


class EditRequest(MoveRequest):
    model_config = _example(
        {"latent_id": LATENT, "attributes": {"smiling": 0.5, "older": -0.25}, "output": "photo"},
        {"latent_id": LATENT, "mix": {"latent_id": ANOTHER, "t": 0.3}},
    )

    output: Literal["crop", "photo"] = "crop"


class SampleRequest(Request):
    model_config = _example(
        {"count": 4, "temperature": 0.7, "seed": 7},
    )

    count: int = Field(1, ge=1, le=64)
    temperature: float = Field(0.7, ge=0, le=1.5, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**63)


class SweepRequest(MoveRequest):
    model_config = _example(
        {"latent_id": LATENT, "attribute": "smiling", "start": -1, "stop": 0.75, "steps": 7},
        {"latent_id": LATENT, "attribute": "older", "steps": 12, "animated": "photo"},
    )

    attribute: str = Field(description="A name, as /attributes lists them.")
    start: Strength | None = Field(None, description="First strength; unset, the least.")
    stop: Strength | None = Field(None, description="Last strength; unset, the greatest.")
    steps: int = Field(7, ge=2, le=MOST_STEPS)
    animated: Literal["crop", "photo"] | None = Field(
        None,
        description="Instead of a strip, an animation that goes there and back: of the crop, or of "
        "the whole photograph at a side of 640 pixels at most. Accept says GIF or WebP.",
    )


class MixRequest(Request):
    model_config = _example(
        {"latent_a": LATENT, "latent_b": ANOTHER, "steps": 7},
        {"latent_a": LATENT, "latent_b": ANOTHER, "t": 0.5},
    )

    latent_a: LatentId
    latent_b: LatentId
    t: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How far from the first to the second; this or steps.",
    )
    steps: int | None = Field(
        None, ge=2, le=MOST_STEPS, description="Pictures from the first to the second."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "MixRequest":
        if (self.t is None) == (self.steps is None):
            raise ValueError("give either t, for one picture, or steps, for a strip")
        return self

    @property
    def shares(self) -> list[float]:
        if self.t is not None:
            return [self.t]
        assert self.steps is not None
        shares: list[float] = np.linspace(0, 1, self.steps).tolist()
        return shares
