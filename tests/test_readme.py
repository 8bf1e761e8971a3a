"""The README's examples, run as they stand against the real server."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, SIDE

README = (ROOT / "README.md").read_text()
SECTION = README.split("## Use it from a program")[1].split("### Live edits")[0]
HERE = "http://127.0.0.1:8000"


def example(language: str, url: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert HERE in found
    return str(found).replace(HERE, url)


@pytest.fixture
def folder(tmp_path: Path, portrait: np.ndarray) -> Path:
    """The photographs that the examples speak of."""
    photo = Image.fromarray(portrait)
    photo.save(tmp_path / "portrait.jpg", quality=92)
    for kind, gain in (("with", 1.0), ("without", 0.7)):
        (tmp_path / kind).mkdir()
        for i in range(3):
            turned = photo.rotate(2 * i - 2, center=(223, 120)).crop((130, 20, 320, 200))
            turned.point(lambda value, gain=gain: value * gain).save(
                tmp_path / kind / f"{i + 1}.jpg"
            )
    return tmp_path


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    found = [*folder.glob("*.png"), *folder.glob("*.webp")]
    return {path.name: Image.open(path).size for path in found}


def test_the_python_example(folder: Path, server_url: str) -> None:
    subprocess.run(
        [sys.executable, "-c", example("python", server_url)], cwd=folder, check=True, timeout=300
    )
    assert pictures(folder) == {
        "edit.webp": (512, 512),
        "sweep.png": (7 * SIDE, SIDE),
        "mix.png": (SIDE, SIDE),
        "crop.png": (SIDE, SIDE),
        "same.png": (SIDE, SIDE),
        "freckles.png": (SIDE, SIDE),
    }


def test_the_shell_example(folder: Path, server_url: str) -> None:
    strict = 'set -euo pipefail\ncurl() { command curl --fail "$@"; }\n'
    script = strict + example("sh", server_url)
    subprocess.run(["bash", "-c", script], cwd=folder, check=True, timeout=300)
    assert pictures(folder) == {
        "smiling.png": (512, 512),
        "sweep.png": (7 * SIDE, SIDE),
        "mix.png": (7 * SIDE, SIDE),
        "crop.png": (SIDE, SIDE),
        "crop.webp": (SIDE, SIDE),
        "freckles.png": (SIDE, SIDE),
    }
