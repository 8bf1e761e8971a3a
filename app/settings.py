"""Every knob of the service, from the environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

import model


class Settings(BaseSettings):
    """Read from variables named GLOW_ and the field's name, as GLOW_REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="GLOW_", frozen=True)

    bundle: Path = Field(
        Path(model.__file__).parent / "bundles" / "faces64.safetensors",
        description="The model to serve.",
    )
    device: str = Field("auto", description="A torch device; auto takes a GPU where there is one.")
    redis_url: str | None = Field(
        None, description="Where latents are kept; in this process if unset."
    )
    time_to_live: int = Field(3600, ge=1, description="Seconds that a latent is kept.")
    store_bytes: int = Field(
        2**30, description="Bound on latents and photographs kept in this process, in bytes."
    )
    max_upload_bytes: int = Field(20 * 2**20, description="Largest request body, in bytes.")
    max_pixels: int = Field(40_000_000, description="Largest photograph, in pixels.")
    queue: int = Field(
        256, ge=1, description="Requests that may wait for the model; more are refused (503)."
    )
    deadline: float = Field(
        20.0, gt=0, description="Seconds that a request waits for the model at most."
    )
    cors_origins: list[str] = Field(
        [], description="Origins whose pages may use the API, as https://example.org; * for any."
    )
