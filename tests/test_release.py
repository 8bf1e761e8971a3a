"""What is released: a wheel with all that it takes to serve, and one version of everything."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from app.cli import app
from tests.deploy.image import context
from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Of what is released, in a folder of its own, with the setuptools that is here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = context(ROOT, ROOT / ".dockerignore", folder / "source")
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_carries_the_page_and_the_model(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    page = {f"static/{path.name}" for path in (ROOT / "static").iterdir()}
    assert page <= inside
    bundles = ROOT / "model" / "bundles"
    assert {f"model/bundles/{path.name}" for path in bundles.iterdir()} <= inside
    modules = {
        str(path.relative_to(ROOT))
        for name in ("app", "model")
        for path in (ROOT / name).rglob("*.py")
    }
    assert modules <= inside
    tops = {name.split("/")[0] for name in inside}
    assert tops == {"app", "model", "static", f"glow_editor-{PROJECT['version']}.dist-info"}


def test_a_wheel_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    about = f"glow_editor-{PROJECT['version']}.dist-info"
    assert "glow-editor = app.cli:app" in wheel.read(f"{about}/entry_points.txt").decode()
    assert "MIT License" in wheel.read(f"{about}/licenses/LICENSE").decode()


def test_the_command_has_all_that_the_library_does() -> None:
    help = CliRunner().invoke(app, ["--help"])
    assert help.exit_code == 0
    for command in ("serve", "train", "pack", "directions", "evaluate", "card"):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
    said = CliRunner().invoke(app, ["--version"]).output
    assert said == f"glow-editor {version('glow-editor')}\n"


def test_the_newest_of_the_changelog_is_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == PROJECT["version"]
    assert version("glow-editor") == PROJECT["version"]


def test_the_version_is_in_one_place() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.toml", "*.yml", "Dockerfile", "Makefile"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    stated = f'version = "{PROJECT["version"]}"'
    holding = [name for name in files if stated in (ROOT / name).read_text()]
    assert holding == ["pyproject.toml"]


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("extra", ["", "ray"])
def test_the_image_pins_every_dependency_at_what_is_tested(extra: str) -> None:
    """As deploy/requirements.txt says how; the tests run with what it pins."""
    pins, seen = pinned("requirements.txt"), set()
    needed = PROJECT["dependencies"]
    if extra:
        file = f"requirements-{extra}.txt"
        assert "-r requirements.txt" in (ROOT / "deploy" / file).read_text().splitlines()
        pins |= pinned(file)
        needed = needed + PROJECT["optional-dependencies"][extra]
    todo = [Requirement(text) for text in needed]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        assert name in pins, f"deploy/requirements.txt lacks {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement}, not {pins[name]}"
        extras = {"", *requirement.extras}
        needs = (Requirement(text) for text in requires(requirement.name) or [])
        todo += [
            need
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras)
        ]
    assert {name for name, *_ in seen} == pins.keys()
