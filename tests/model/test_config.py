"""What a flow may be."""

import json
from typing import Any

import pytest

from model.config import PRESETS, FlowConfig


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
        coupling="additive",
        permutation="shuffle",
        log_scale_bound=2.5,
    )
    assert FlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_parts_of_the_default() -> None:
    config = FlowConfig()
    assert config.levels == 4
    assert config.dimensions == 3 * 64 * 64
    assert config.part_shapes == [(6, 32, 32), (12, 16, 16), (24, 8, 8), (96, 4, 4)]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_parts_hold_every_number_once(levels: int, channels: int) -> None:
    config = FlowConfig(resolution=16, channels=channels, steps=(1,) * levels, hidden=(8,) * levels)
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
    ],
    ids=str,
)
def test_what_cannot_be_says_why(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FlowConfig(**settings)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="unknown flow settings: depth, width"):
        FlowConfig.from_dict({"width": 3, "depth": 4, "bits": 8})
