"""What a flow is: its shape, depth and widths, and the presets that have names."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Coupling = Literal["affine", "additive"]
Permutation = Literal["invertible_1x1", "shuffle", "reverse"]


@dataclass(frozen=True)
class FlowConfig:
    """A multi-scale flow over `channels` x `resolution` x `resolution` images of `bits` bits.

    `steps[i]` and `hidden[i]` are the depth of level i and the width of its coupling networks.
    `log_scale_bound` holds every affine coupling's log-scale within plus or minus itself.
    """

    resolution: int = 64
    channels: int = 3
    bits: int = 8
    steps: tuple[int, ...] = (12, 8, 6, 4)
    hidden: tuple[int, ...] = (128, 128, 128, 128)
    coupling: Coupling = "affine"
    permutation: Permutation = "invertible_1x1"
    log_scale_bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.hidden):
            raise ValueError(
                f"steps {self.steps} and hidden {self.hidden} must name one number per level each"
            )
        if min(self.steps) < 1 or min(self.hidden) < 1:
            raise ValueError(f"steps {self.steps} and hidden {self.hidden} must be positive")
        if min(self.resolution, self.channels) < 1:
            raise ValueError(
                f"resolution {self.resolution} and channels {self.channels} must be positive"
            )
        if self.resolution % 2**self.levels:
            raise ValueError(
                f"resolution {self.resolution} cannot be halved {self.levels} times, once per level"
            )
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be 1 to 8, not {self.bits}")
        for value, known in (
            (self.coupling, get_args(Coupling)),
            (self.permutation, get_args(Permutation)),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")
        if not self.log_scale_bound > 0:
            raise ValueError(f"log_scale_bound must be positive, not {self.log_scale_bound}")

    @property
    def levels(self) -> int:
        return len(self.steps)

    @property
    def dimensions(self) -> int:
        """Numbers in an image, and so in its latent."""
        return self.channels * self.resolution**2

    @property
    def part_shapes(self) -> list[tuple[int, int, int]]:
        """The shape (channels, height, width) of each part of a latent, levels in order."""
        shapes, channels, size = [], self.channels, self.resolution
        for _ in range(self.levels - 1):
            channels, size = channels * 4, size // 2
            channels //= 2
            shapes.append((channels, size, size))
        return [*shapes, (channels * 4, size // 2, size // 2)]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FlowConfig":
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown flow settings: {', '.join(sorted(unknown))}")
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        settings: dict[str, Any] = {**values, **lists}
        return cls(**settings)


PRESETS = {
    "glow64": FlowConfig(),
    "glow32": FlowConfig(resolution=32, steps=(8, 8, 8), hidden=(128, 128, 128)),
}
