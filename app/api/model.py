"""GET /model: what is served."""

from fastapi import APIRouter

from app.api.parts import PartsOf
from app.schemas import ModelDescription

router = APIRouter(tags=["model"])


@router.get("/model")
async def model(parts: PartsOf) -> ModelDescription:
    """The model that is served."""
    bundle = parts.engine.bundle
    return ModelDescription(
        name=bundle.name,
        resolution=bundle.resolution,
        levels=bundle.flow.config.levels,
        parameters=sum(parameter.numel() for parameter in bundle.flow.parameters()),
        bits_per_dim=bundle.card.get("bits_per_dim"),
        card=bundle.card,
        time_to_live=parts.settings.time_to_live,
    )
