"""The image, made once of the Dockerfile's own steps."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import Image, context, why_not
from tests.helpers import ROOT

MEMORY = Path("/dev/shm")
SPACE = 5 * 2**30  # bytes, more than an image takes


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if reason := why_not():
        pytest.skip(reason)
    # in memory where there is some: on a disk its files take minutes to write and to remove
    roomy = MEMORY.exists() and shutil.disk_usage(MEMORY).free > SPACE
    parent = MEMORY if roomy else tmp_path_factory.mktemp("image")
    with tempfile.TemporaryDirectory(
        prefix="glow-image-", dir=parent, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        files = context(ROOT, ROOT / ".dockerignore", folder / "context")
        yield Image(ROOT / "Dockerfile", folder, {"VARIANT": "cpu", "VERSION": "1.2.3"}, files)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")
