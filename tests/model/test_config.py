"""What a flow may be."""

import json
from typing import Any

import pytest

from model.config import PRESETS, FlowConfig

ONE_LEVEL = {"steps": (4,), "hidden": (8,), "permutation": "reverse"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name]
    assert FlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_setting_survives_json() -> None:
    config = FlowConfig(
        resolution=16,
        channels=1,
        bits=5,
        steps=(1, 2),
        hidden=(3, 4),
        kept=(1,),
        coupling="additive",
        permutation="shuffle",
        log_scale_bound=2.5,
        normalisation="none",
        checkerboard=(3, 0),
        depth=2,
        residual=True,
        prior="logistic",
        classes=10,
    )
    assert FlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    factored = FlowConfig(factors=128, factor_levels=3)
    assert FlowConfig.from_dict(json.loads(json.dumps(factored.to_dict()))) == factored


def test_the_parts_of_the_last_levels_have_factors() -> None:
    assert FlowConfig(factors=8, factor_levels=2).factor_dimensions == (24 * 8 + 96 * 2) * 8
    assert FlowConfig(factors=8, factor_levels=4).factor_dimensions == FlowConfig().dimensions
    assert FlowConfig().factor_dimensions == 0


def test_a_config_of_before_the_families_is_glow() -> None:
    values = {
        "resolution": 64,
        "channels": 3,
        "bits": 8,
        "steps": [16, 8, 6, 4],
        "hidden": [128, 128, 128, 128],
        "coupling": "affine",
        "permutation": "invertible_1x1",
        "log_scale_bound": 1.0,
    }
    assert FlowConfig.from_dict(values) == PRESETS["glow64"] == FlowConfig()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("glow64", [(6, 32, 32), (12, 16, 16), (24, 8, 8), (96, 4, 4)]),
        ("glow128", [(9, 64, 64), (6, 32, 32), (12, 16, 16), (24, 8, 8), (96, 4, 4)]),
        ("glow32", [(6, 16, 16), (12, 8, 8), (48, 4, 4)]),
        ("realnvp64", [(6, 32, 32), (12, 16, 16), (24, 8, 8), (96, 4, 4)]),
        ("realnvp32", [(6, 16, 16), (12, 8, 8), (48, 4, 4)]),
        ("nice64", [(12288, 1, 1)]),
        ("nice32", [(3072, 1, 1)]),
    ],
)
def test_parts_of_the_presets(name: str, parts: list[tuple[int, int, int]]) -> None:
    assert PRESETS[name].part_shapes == parts


def test_parts_of_the_default() -> None:
    config = FlowConfig()
    assert config.levels == 4
    assert config.dimensions == 3 * 64 * 64
    assert config.part_shapes == [(6, 32, 32), (12, 16, 16), (24, 8, 8), (96, 4, 4)]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kept", [(), (1,), (3, 5)])
def test_parts_hold_every_number_once(levels: int, channels: int, kept: tuple[int, ...]) -> None:
    config = FlowConfig(
        resolution=16,
        channels=channels,
        steps=(1,) * levels,
        hidden=(8,) * levels,
        kept=kept[: levels - 1],
    )
    assert len(config.part_shapes) == levels
    assert sum(c * h * w for c, h, w in config.part_shapes) == config.dimensions


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": (1, 2), "hidden": (8,)}, "one number per level"),
        ({"steps": (), "hidden": ()}, "one number per level"),
        ({"steps": (1, 0), "hidden": (8, 8)}, "must be positive"),
        ({"steps": (1, 1), "hidden": (8, -8)}, "must be positive"),
        ({"resolution": 24}, "24 cannot be halved 4 times"),
        ({"resolution": 0}, "resolution"),
        ({"channels": 0}, "channels"),
        ({"bits": 0}, "bits must be 1 to 8, not 0"),
        ({"bits": 9}, "bits must be 1 to 8, not 9"),
        ({"coupling": "quadratic"}, "quadratic"),
        ({"permutation": "rotate"}, "rotate"),
        ({"log_scale_bound": 0.0}, "log_scale_bound"),
        ({"normalisation": "batch"}, "batch"),
        ({"prior": "student"}, "student"),
        ({"depth": 0}, "depth must be positive"),
        ({"classes": -1}, "classes must be none or more"),
        ({"factors": 8}, "factors 8 and factor_levels 0 must both be 0"),
        ({"factor_levels": 1}, "factors 0 and factor_levels 1"),
        ({"factors": -1, "factor_levels": 1}, "factors -1"),
        ({"factors": 8, "factor_levels": 5}, "no more than 4"),
        ({"factors": 8, "factor_levels": 1, "prior": "logistic"}, "a gaussian prior"),
        ({"factors": 8, "factor_levels": 1, "classes": 2}, "without classes"),
        ({"checkerboard": (3, 3)}, "checkerboard"),
        ({"checkerboard": (3, 3, -1, 3)}, "checkerboard"),
        ({"kept": (3, 6, 12, 24)}, r"kept \(3, 6, 12, 24\) must name"),
        ({"kept": (0,)}, "kept"),
        ({"kept": (12,)}, "some but not all of the channels"),
        ({"kept": (3, 12)}, "kept"),
        ({"flat": True}, "a flat flow has one level"),
        ({"flat": True, "steps": (4,), "hidden": (8,)}, "no invertible_1x1"),
        (
            {**ONE_LEVEL, "flat": True, "checkerboard": (1,)},
            "no checkerboard",
        ),
        ({**ONE_LEVEL, "flat": True, "resolution": 1, "channels": 1}, "two numbers or more"),
    ],
    ids=str,
)
def test_what_cannot_be_says_why(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FlowConfig(**settings)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="unknown flow settings: breadth, width"):
        FlowConfig.from_dict({"width": 3, "breadth": 4, "bits": 8})
