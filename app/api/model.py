"""GET /model and /attributes: what is served."""

from fastapi import APIRouter

from app.api.parts import PartsOf
from app.schemas import Attribute, ModelDescription

router = APIRouter(tags=["model"])


@router.get("/model")
async def model(parts: PartsOf) -> ModelDescription:
    """The model that is served."""
    bundle = parts.engine.bundle
    return ModelDescription(
        name=bundle.name,
        resolution=bundle.flow.config.resolution,
        levels=bundle.flow.config.levels,
        parameters=sum(parameter.numel() for parameter in bundle.flow.parameters()),
        bits_per_dim=bundle.card.get("bits_per_dim"),
        card=bundle.card,
        time_to_live=parts.settings.time_to_live,
    )


@router.get("/attributes")
async def attributes(parts: PartsOf) -> list[Attribute]:
    """The attributes that faces can be edited by."""
    return [Attribute.built_in(direction) for direction in parts.engine.bundle.directions]
