"""The image, made once of the Dockerfile's own steps."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import Image, context, why_not
from tests.helpers import ROOT


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("image")
    files = context(ROOT, ROOT / ".dockerignore", folder / "context")
    yield Image(ROOT / "Dockerfile", folder, {"VARIANT": "cpu", "VERSION": "1.2.3"}, files)
    shutil.rmtree(folder, ignore_errors=True)  # a gigabyte


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")
