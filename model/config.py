"""What a flow is: its shape, depth and widths, and the presets that have names."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Coupling = Literal["affine", "additive"]
Permutation = Literal["invertible_1x1", "shuffle", "reverse"]
Normalisation = Literal["actnorm", "none"]
Prior = Literal["gaussian", "logistic"]


@dataclass(frozen=True)
class FlowConfig:
    """A flow over `channels` x `resolution` x `resolution` images of `bits` bits: NICE (Dinh et
    al. 2014), RealNVP (Dinh et al. 2016) and Glow (Kingma & Dhariwal 2018) are settings of one.

    `steps[i]` and `hidden[i]` are the depth of level i and the width of its coupling networks.
    `checkerboard[i]` is how many couplings level i has on a checkerboard of pixels before its
    squeeze (RealNVP, 3.4); empty is none at any level. `depth` layers stand between the first and
    the last of a coupling network, `residual` ones (RealNVP, 3.7) or plain. `log_scale_bound`
    holds every affine coupling's log-scale within plus or minus itself.

    `kept[i]` is how many channels go on past the split of level i; half of them (Glow) at levels
    that it does not name. At 3 of the 12 of a picture's first level, the next one sees a picture
    of half the side, which the first adds the details to (Wavelet Flow, Yu et al. 2020).

    `flat` is the form of NICE: one level on the picture as one vector, whose coupling networks
    are perceptrons on its even and its odd half. `prior` is the distribution of each number of a
    latent. `classes` is how many classes of image the last part has a prior of its own for.
    `factors` is how many common factors the parts of the last `factor_levels` levels vary by
    (`model.factors`), which are found for a flow that was trained without.
    """

    resolution: int = 64
    channels: int = 3
    bits: int = 8
    steps: tuple[int, ...] = (16, 8, 6, 4)
    hidden: tuple[int, ...] = (128, 128, 128, 128)
    kept: tuple[int, ...] = ()
    coupling: Coupling = "affine"
    permutation: Permutation = "invertible_1x1"
    log_scale_bound: float = 1.0
    normalisation: Normalisation = "actnorm"
    checkerboard: tuple[int, ...] = ()
    depth: int = 1
    residual: bool = False
    flat: bool = False
    prior: Prior = "gaussian"
    classes: int = 0
    factors: int = 0
    factor_levels: int = 0

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.hidden):
            raise ValueError(
                f"steps {self.steps} and hidden {self.hidden} must name one number per level each"
            )
        if min(self.steps) < 1 or min(self.hidden) < 1:
            raise ValueError(f"steps {self.steps} and hidden {self.hidden} must be positive")
        if len(self.checkerboard) not in (0, self.levels) or min(self.checkerboard, default=0) < 0:
            raise ValueError(
                f"checkerboard {self.checkerboard} must be empty or name one number per level"
            )
        if self.depth < 1:
            raise ValueError(f"depth must be positive, not {self.depth}")
        if self.classes < 0:
            raise ValueError(f"classes must be none or more, not {self.classes}")
        if (self.factors > 0) != (0 < self.factor_levels <= self.levels) or self.factors < 0:
            raise ValueError(
                f"factors {self.factors} and factor_levels {self.factor_levels} must both be 0, or "
                f"positive, and the levels no more than {self.levels}"
            )
        if self.factors and (self.prior != "gaussian" or self.classes):
            raise ValueError("factors are for a gaussian prior, and one without classes")
        if min(self.resolution, self.channels) < 1:
            raise ValueError(
                f"resolution {self.resolution} and channels {self.channels} must be positive"
            )
        if self.flat:
            if self.levels > 1 or self.checkerboard or self.permutation == "invertible_1x1":
                raise ValueError(
                    "a flat flow has one level, no checkerboard and no invertible_1x1 permutation"
                )
            if self.dimensions < 2:
                raise ValueError("a flat flow needs two numbers or more, to halve")
        elif self.resolution % 2**self.levels:
            raise ValueError(
                f"resolution {self.resolution} cannot be halved {self.levels} times, once per level"
            )
        if len(self.kept) >= self.levels or not all(
            0 < kept < 4 * channels
            for kept, (channels, *_) in zip(self.kept, self.input_shapes, strict=False)
        ):
            raise ValueError(
                f"kept {self.kept} must name some but not all of the channels of a split each"
            )
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be 1 to 8, not {self.bits}")
        for value, known in (
            (self.coupling, get_args(Coupling)),
            (self.permutation, get_args(Permutation)),
            (self.normalisation, get_args(Normalisation)),
            (self.prior, get_args(Prior)),
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
    def input_shapes(self) -> list[tuple[int, int, int]]:
        """The shape (channels, height, width) of what goes into each level."""
        shapes = [(self.channels, self.resolution, self.resolution)]
        for i in range(self.levels - 1):
            channels, size, _ = shapes[-1]
            kept = self.kept[i] if i < len(self.kept) else 2 * channels
            shapes.append((kept, size // 2, size // 2))
        return shapes

    @property
    def part_shapes(self) -> list[tuple[int, int, int]]:
        """The shape (channels, height, width) of each part of a latent, levels in order."""
        if self.flat:
            return [(self.dimensions, 1, 1)]
        inputs = self.input_shapes
        after = [kept for kept, *_ in inputs[1:]] + [0]
        return [
            (4 * channels - kept, size // 2, size // 2)
            for (channels, size, _), kept in zip(inputs, after, strict=True)
        ]

    @property
    def factor_dimensions(self) -> int:
        """Numbers of the parts that vary by common factors."""
        shapes = self.part_shapes[self.levels - self.factor_levels :]
        return sum(math.prod(shape) for shape in shapes)

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


_REALNVP = FlowConfig(permutation="reverse", residual=True)
_NICE = FlowConfig(
    steps=(4,),
    hidden=(1000,),
    coupling="additive",
    permutation="reverse",
    normalisation="none",
    depth=3,
    flat=True,
    prior="logistic",
)

# RealNVP's batch normalisation is ActNorm here, which needs no batch to decode; its residual
# blocks are 2 at 64 pixels and 4 at 32, as in its section 4.1. NICE has the four couplings of four
# hidden layers that its section 5.1 has for CIFAR-10, in half the width; at 64 pixels a quarter,
# lest the first and last layers, which grow with the picture, take all the weights.
PRESETS = {
    "glow64": FlowConfig(),
    "glow128": FlowConfig(
        resolution=128, steps=(9, 16, 8, 6, 4), hidden=(64, 128, 128, 128, 128), kept=(3,)
    ),
    "glow128-large": FlowConfig(
        resolution=128, steps=(17, 24, 16, 10, 6), hidden=(128, 256, 256, 256, 256), kept=(3,)
    ),
    "glow32": FlowConfig(resolution=32, steps=(8, 8, 8), hidden=(128, 128, 128)),
    "realnvp64": replace(
        _REALNVP,
        steps=(3, 3, 3, 3),
        checkerboard=(3, 3, 3, 3),
        hidden=(32, 64, 128, 128),
        depth=2,
    ),
    "realnvp32": replace(
        _REALNVP,
        resolution=32,
        steps=(3, 3, 3),
        checkerboard=(3, 3, 3),
        hidden=(32, 64, 128),
        depth=4,
    ),
    "nice64": replace(_NICE, hidden=(500,)),
    "nice32": replace(_NICE, resolution=32),
}
