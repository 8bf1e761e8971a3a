"""A model on disk: one safetensors file of weights and directions, its header the rest."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.config import FlowConfig
from model.flow import Flow

FORMAT = 3
MAX_CONDITION = 1e5  # of a 1x1 convolution: beyond it, 8-bit pictures do not come back exactly


class BundleError(Exception):
    """A bundle that cannot be read, and why."""


@dataclass(frozen=True)
class Direction:
    """A difference of latents that means one attribute.

    `vector` is what one unit of strength adds. Readings are taken along `difference`, that of the
    mean latents: where the vector was made to leave the rest of a picture still
    (`model.still.stilled`) it is another, and tells images with and without the attribute apart
    less well. None is the vector itself.

    A latent's reading is (z . difference) / (vector . difference) - origin, so one unit of strength
    is one unit of reading. It is 0 midway between the mean of the images without the attribute and
    that of those with it (or of those that clearly are so, see `model.attributes.spanning`), and
    where the vector is the difference itself these read -0.5 and 0.5. `std` is the deviation of the
    readings of the data. `min` and `max` bound the strength: -1 and 1, or further where most faces
    hold.
    """

    name: str
    label: str
    group: str
    vector: Tensor = field(repr=False)  # (dimensions,), float32
    positives: int
    negatives: int
    origin: float
    std: float
    min: float
    max: float
    difference: Tensor | None = field(default=None, repr=False)  # (dimensions,), float32

    @property
    def along(self) -> Tensor:
        """What readings are taken along, (dimensions,), float64."""
        return (self.vector if self.difference is None else self.difference).double()

    @property
    def reader(self) -> Tensor:
        """Its product with a flat latent is the reading and `origin`, (dimensions,), float64."""
        along = self.along
        return along / (along @ self.vector.double())

    def reading(self, latent: Tensor) -> float:
        """Where a flat latent lies on this attribute's slider."""
        return (latent.double() @ self.reader).item() - self.origin


@dataclass
class Bundle:
    """A flow with its directions and its card (what it is, what it was trained on, its terms).

    `crop_jpeg` is the JPEG quality in which the images that the flow learned from came at its own
    resolution, if they did. Their marks are part of what it knows: a crop without them is far from
    any of those images, so whoever makes one gives it the same.
    """

    name: str
    flow: Flow
    directions: list[Direction] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)
    crop_jpeg: int | None = None

    @cached_property
    def identity(self) -> str:
        """The name and a digest of the flow, whose latents are noise to any other, and of how crops
        are made for it, which says what a latent is an edit of."""
        made = {"crop_jpeg": self.crop_jpeg} if self.crop_jpeg else {}
        config = replace(self.flow.config, factors=0, factor_levels=0)
        weights = {  # but those of the prior, which latents know nothing of
            name: tensor
            for name, tensor in self.flow.state_dict().items()
            if not name.startswith("common.")
        }
        settings = json.dumps(_settings(config) | made, sort_keys=True)
        return f"{self.name}@{_digest(settings, weights)}"

    @cached_property
    def revision(self) -> str:
        """The identity and a digest of the directions: all that an edited picture hangs on."""
        vectors = {direction.name: direction.vector for direction in self.directions}
        return f"{self.identity}+{_digest('', vectors)}"

    @property
    def resolution(self) -> int:
        return self.flow.config.resolution

    def readings(self, latent: NDArray[np.float64]) -> dict[str, float]:
        """`Direction.reading` of each direction, in one product."""
        values = self._readers @ latent
        return {
            d.name: round(float(value) - d.origin, 3)
            for d, value in zip(self.directions, values, strict=True)
        }

    @cached_property
    def _readers(self) -> NDArray[np.float64]:
        """(directions, dimensions)"""
        if not self.directions:
            return np.empty((0, self.flow.config.dimensions))
        return torch.stack([direction.reader for direction in self.directions]).numpy()

    def save(self, path: Path, half: bool = False) -> None:
        """Write to `path` in one step, so that a reader never sees half a file; `half` stores
        float16, which halves the file."""
        dtype = torch.float16 if half else torch.float32
        tensors = {
            f"flow.{name}": tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
            for name, tensor in self.flow.state_dict().items()
        }
        differing = any(direction.difference is not None for direction in self.directions)
        if self.directions:
            vectors = torch.stack([direction.vector for direction in self.directions])
            tensors["directions"] = vectors.to("cpu", dtype)
            if differing:
                differences = torch.stack([direction.along for direction in self.directions])
                tensors["differences"] = differences.to("cpu", dtype)
        header = {
            # older versions read what has nothing that they do not know
            "format": 3 if self.flow.config.factors else 2 if differing else 1,
            "name": self.name,
            "config": _settings(self.flow.config),
            "directions": [
                {k: v for k, v in vars(direction).items() if k not in ("vector", "difference")}
                for direction in self.directions
            ],
            "card": self.card,
            "crop_jpeg": self.crop_jpeg,
        }
        content = save(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            metadata={"glow-editor": json.dumps(header)},
        )
        part = path.with_name(path.name + ".part")
        part.write_bytes(content)  # safetensors' own files are for their owner alone
        part.replace(path)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "Bundle":
        """Raises BundleError for a file that is missing, damaged, foreign or of a newer format."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        if "glow-editor" not in metadata:
            raise BundleError(f"{path} is a safetensors file, but no Glow Editor bundle")
        try:
            return cls._read(json.loads(metadata["glow-editor"]), tensors, device)
        except BundleError as error:
            raise BundleError(f"{path} {error}") from error.__cause__
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path} has a header that makes no sense: {error!r}") from error

    @classmethod
    def _read(
        cls, header: dict[str, Any], tensors: dict[str, Tensor], device: torch.device | str
    ) -> "Bundle":
        if header["format"] > FORMAT:
            raise BundleError(
                f"has bundle format {header['format']}; this version reads up to {FORMAT}: "
                "serve it with a newer one"
            )
        flow = Flow(FlowConfig.from_dict(header["config"]))
        vectors = tensors.pop("directions", torch.empty(0, flow.config.dimensions)).float()
        differences = tensors.pop("differences", None)
        try:
            flow.load_state_dict(
                {name.removeprefix("flow."): tensor for name, tensor in tensors.items()}
            )
        except RuntimeError as error:
            raise BundleError(f"does not match its own config: {error}") from error
        condition = flow.condition()
        if not condition < MAX_CONDITION:
            raise BundleError(
                f"has a 1x1 convolution of condition number {condition:.3g}, which float32 cannot "
                f"invert; up to {MAX_CONDITION:.0g} is accepted"
            )
        crop_jpeg = header.get("crop_jpeg")  # which older bundles lack
        if crop_jpeg is not None and crop_jpeg not in range(1, 101):
            raise BundleError(f"has crops of JPEG quality {crop_jpeg!r}; 1 to 100 is accepted")
        directions = header["directions"]
        for what, found in (("vectors", vectors), ("differences", differences)):
            if found is not None and found.shape != (len(directions), flow.config.dimensions):
                raise BundleError(
                    f"has {len(directions)} directions of {flow.config.dimensions} numbers, but "
                    f"{what} of shape {tuple(found.shape)}"
                )
        along = [None] * len(directions) if differences is None else differences.float()
        return cls(
            header["name"],
            flow.eval().requires_grad_(False).to(device),
            [
                Direction(**values, vector=vector, difference=difference)
                for values, vector, difference in zip(directions, vectors, along, strict=True)
            ],
            header["card"],
            crop_jpeg,
        )


def _settings(config: FlowConfig) -> dict[str, Any]:
    """Those of a flow, without what an older version does not know where there is nothing of it."""
    settings = config.to_dict()
    if not config.factors:
        del settings["factors"], settings["factor_levels"]
    return settings


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    hash = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        hash.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hash.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hash.hexdigest()[:12]
