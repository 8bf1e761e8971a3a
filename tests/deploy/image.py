"""Performs a Dockerfile's own steps where there is no container engine: each stage in an overlay of
this machine's root, which stands in for the base image, with this Python as its `python`.

Of what an engine isolates it does the files, the user and his rights; it needs root for that.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PYTHON = Path(sys.base_prefix, "bin")
BASE_PATH = f"{PYTHON}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Instruction:
    name: str
    flags: dict[str, str]
    text: str

    @property
    def form(self) -> list[str]:
        """Of a command: its exec form."""
        return list(json.loads(self.text))


def instructions(dockerfile: str) -> Iterator[Instruction]:
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, text = line.split(None, 1)
        flags = {}
        while match := re.match(r"--(\w[\w-]*)=(\S+)\s+", text):
            flags[match[1]] = match[2]
            text = text[match.end() :]
        yield Instruction(name.upper(), flags, text.strip())


def substituted(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: values.get(m[1] or m[2], ""), text)


# a stage's files, and those of the kernel; what is the machine's alone is out of sight
MOUNT = """
ROOT="$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$ROOT"
for place in proc sys dev; do mount --rbind "/$place" "$ROOT/$place"; done
mount -t tmpfs tmpfs "$ROOT$3"
mount -t tmpfs tmpfs "$ROOT/dev/shm"
mount -t tmpfs tmpfs "$ROOT/tmp"
shift 3
"""
CHECKOUT = Path(__file__).parents[2]  # what runs in the image must not find it


def layer(folder: Path) -> Path:
    """A folder for an overlay to be mounted in."""
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True)
    return folder


def in_mounts(folder: Path, below: Path | None, script: str, *arguments: str) -> list[str]:
    """A command that runs a script with the files of a layer, and of the one below it, at $ROOT."""
    if below:
        image = f"ro,lowerdir=/,upperdir={below}/upper,workdir={below}/work"
        script = f"mount -t overlay overlay -o {image} {below}/root\n{MOUNT}{script}"
    else:
        script = MOUNT + script
    lower = str(below / "root") if below else "/"
    shell = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    return [*shell, str(folder), lower, str(CHECKOUT), *arguments]


@dataclass
class Stage:
    folder: Path
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"
    labels: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    @property
    def values(self) -> dict[str, str]:
        return self.arguments | self.environment

    @property
    def upper(self) -> Path:
        """What the stage added to its base."""
        return self.folder / "upper"


class Image:
    """What `docker build` would make of a Dockerfile, below a folder."""

    def __init__(
        self, dockerfile: Path, folder: Path, build_arguments: Mapping[str, str], context: Path
    ) -> None:
        self._folder = folder
        self._given = build_arguments
        self._context = context
        self._defaults: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self._containers = 0
        for instruction in instructions(dockerfile.read_text()):
            getattr(self, f"_{instruction.name.lower()}")(instruction)
        self.final = self._stage

    def _from(self, instruction: Instruction) -> None:
        image, _, name = instruction.text.partition(" AS ")
        assert re.fullmatch(r"python:[\d.]+-slim-\w+", substituted(image, self._defaults)), image
        name = name or "final"
        folder = layer(self._folder / name)
        self._stage = self._stages[name] = Stage(folder, {"PATH": BASE_PATH})
        self._sh(
            # there is a `python`, and any user may reach it
            '[ -e "$1/python" ] || ln -s python3 "$1/python"\n'
            'while [ "$1" != / ]; do chmod o+x "$1"; set -- "$(dirname "$1")"; done',
            str(PYTHON),
        )

    def _arg(self, instruction: Instruction) -> None:
        name, _, default = instruction.text.partition("=")
        value = self._given.get(name, self._defaults.get(name, default))
        if self._stages:
            self._stage.arguments[name] = value
        else:
            self._defaults[name] = value

    def _pairs(self, text: str) -> dict[str, str]:
        pairs = (word.split("=", 1) for word in shlex.split(text))
        return {name: substituted(value, self._stage.values) for name, value in pairs}

    def _env(self, instruction: Instruction) -> None:
        self._stage.environment |= self._pairs(instruction.text)

    def _label(self, instruction: Instruction) -> None:
        self._stage.labels |= self._pairs(instruction.text)

    def _workdir(self, instruction: Instruction) -> None:
        self._sh('mkdir -p "$1"', instruction.text)
        self._stage.directory = instruction.text

    def _user(self, instruction: Instruction) -> None:
        self._stage.user = instruction.text

    def _expose(self, instruction: Instruction) -> None:
        assert instruction.text == self._stage.environment["PORT"]

    def _healthcheck(self, instruction: Instruction) -> None:
        command = Instruction("CMD", {}, instruction.text.removeprefix("CMD "))
        self._stage.healthcheck = command.form

    def _cmd(self, instruction: Instruction) -> None:
        self._stage.command = instruction.form

    def _run(self, instruction: Instruction) -> None:
        self._sh(instruction.text)

    def _copy(self, instruction: Instruction) -> None:
        *sources, destination = instruction.text.split()
        if origin := instruction.flags.get("from"):
            # its upper layer has all that it made
            (source,) = sources
            self._into(self._stages[origin].upper / source.lstrip("/"), destination)
            return
        for source in sources:
            found = self._context / source
            assert found.exists(), f"{source} is not in the build context"
            target = f"{destination}/{found.name}" if destination.endswith("/") else destination
            self._into(found, target)

    def _into(self, source: Path, destination: str) -> None:
        target = Path(self._stage.directory, destination)
        script = 'mkdir -p "$(dirname "$ROOT$2")" && cp -a --no-target-directory "$1" "$ROOT$2"'
        command = in_mounts(self._stage.folder, None, script, str(source), str(target))
        subprocess.run(command, check=True)

    def _sh(self, script: str, *arguments: str) -> None:
        stage = self._stage
        # as an engine does: the machine's way to the package index holds for the build
        index = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment = {**index, "HOME": "/root", **stage.values}
        command = in_mounts(
            stage.folder,
            None,
            'cd "$ROOT" && exec chroot . env -i "$@"',
            f"--chdir={stage.directory}",
            *(f"{name}={value}" for name, value in environment.items()),
            *("sh", "-ec", script, "sh", *arguments),
        )
        subprocess.run(command, check=True)

    def start(
        self, command: Sequence[str] | None = None, prefix: Sequence[str] = (), **options: Any
    ) -> subprocess.Popen[bytes]:
        """Its command, or another, on a root that is read-only but for /tmp: as its user, with no
        capabilities and no way to gain any. `environment` is what `docker run --env` sets;
        `files` is put over the image's own."""
        environment = self.final.environment | options.pop("environment", {})
        files: dict[str, Path] = options.pop("files", {})
        binds = "\n".join(
            f'mkdir -p "$ROOT{place if source.is_dir() else Path(place).parent}"\n'
            f'[ -e "$ROOT{place}" ] || touch "$ROOT{place}"\n'
            f'mount --bind {shlex.quote(str(source))} "$ROOT{place}"'
            for place, source in files.items()
        )
        readonly = 'mount -o remount,bind,ro "$ROOT"\ncd "$ROOT" && exec chroot . "$@"'
        words = self._confined(environment, command or self.final.command)
        self._containers += 1
        own = layer(self._folder / f"container{self._containers}")
        mounted = in_mounts(own, self.final.folder, f"{binds}\n{readonly}", *words)
        return subprocess.Popen([*prefix, *mounted], **options)

    def check_health(self, process: subprocess.Popen[bytes], **environment: str) -> int:
        """The exit status of the healthcheck, inside a container that runs."""
        words = self._confined(self.final.environment | environment, self.final.healthcheck)
        enter = ["nsenter", f"--target={process.pid}", "--mount", "--net", "--root"]
        done = subprocess.run([*enter, *words], capture_output=True)
        return done.returncode

    def _confined(self, environment: Mapping[str, str], command: Sequence[str]) -> list[str]:
        user, group = self.final.user.split(":")
        rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"]
        variables = [f"{name}={value}" for name, value in environment.items()]
        return [
            *("setpriv", f"--reuid={user}", f"--regid={group}", *rights),
            *("env", "-i", f"--chdir={self.final.directory}", *variables, *command),
        ]


def context(root: Path, ignore: Path, folder: Path) -> Path:
    """The build context: what a .dockerignore that names everything lets through again."""
    rules = [line for line in ignore.read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    dropped = [rule.removeprefix("**/") for rule in rules[1:] if rule[0] != "!"]
    for rule in rules[1:]:
        if rule[0] == "!":
            source, target = root / rule[1:], folder / rule[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*dropped))
            else:
                shutil.copy(source, target)
    return folder


def why_not() -> str | None:
    """Why it cannot be done here."""
    if os.geteuid() != 0:
        return "performing a Dockerfile's steps needs root"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "no mount namespaces here"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no overlay file system here"
    return None
