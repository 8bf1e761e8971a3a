"""Every knob of the service, from the environment."""

from pathlib import Path
from typing import Annotated, Any

from limits import parse
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import model

SHORTEST_KEY = 16  # characters; who can guess a key can read what it owns


def _split(value: Any) -> Any:
    return [item for item in value.split(",") if item] if isinstance(value, str) else value


Listed = (NoDecode, BeforeValidator(_split))  # in the environment, separated by commas


def _long_enough(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < SHORTEST_KEY:
        raise ValueError(f"a key has {SHORTEST_KEY} characters or more")
    return key


def _a_rate(rate: str) -> str:
    parse(rate)
    return rate


class Settings(BaseSettings):
    """Read from variables named GLOW_ and the field's name, as GLOW_REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="GLOW_", frozen=True, hide_input_in_errors=True)

    bundle: Path = Field(
        Path(model.__file__).parent / "bundles" / "faces128.safetensors",
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
    cors_origins: Annotated[list[str], *Listed] = Field(
        [], description="Origins whose pages may use the API, as https://example.org; * for any."
    )
    api_keys: Annotated[list[Annotated[SecretStr, AfterValidator(_long_enough)]], *Listed] = Field(
        [], description="Keys that the API asks for one of; with none, it is open to everybody."
    )
    rate_limit: Annotated[str, AfterValidator(_a_rate)] | None = Field(
        None, description="Requests by one key, or one address, as 600/minute; unset, any number."
    )
