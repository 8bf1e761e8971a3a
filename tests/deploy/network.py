"""Hosts of their own on one wire: network namespaces on a bridge, each with an address and the
names of all."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

SUBNET = "10.231.7"
LAST = 254  # this machine's own

IN_HOST = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def why_not() -> str | None:
    """Why there can be none here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        Network([], Path("/dev/null")).close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces here: {error}"
    return None


class Network:
    """Hosts, by name; a name that is there twice is two hosts, as replicas are."""

    def __init__(self, names: Sequence[str], hosts: Path) -> None:
        self._tag = f"glow{os.getpid() % 100_000}"
        self._names, self._hosts = names, hosts
        self._made: list[str] = []
        _ip("link", "add", self._tag, "type", "bridge")
        try:
            _ip("addr", "add", f"{SUBNET}.{LAST}/24", "dev", self._tag)
            _ip("link", "set", self._tag, "up")
            self.addresses = [self._add(number) for number in range(1, len(names) + 1)]
        except BaseException:
            self.close()
            raise
        if names:
            lines = [f"{a} {n}" for a, n in zip(self.addresses, names, strict=True)]
            hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def _add(self, number: int) -> str:
        name, here, address = f"{self._tag}-{number}", f"gv{number}", f"{SUBNET}.{number}"
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", here, "master", self._tag, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        return address

    def on(self, host: int) -> list[str]:
        """What to put before a command for it to run on a host."""
        inside = ["unshare", "--mount", "--uts", "sh", "-c", IN_HOST, "sh", str(self._hosts)]
        return ["ip", "netns", "exec", self._made[host], *inside, self._names[host]]

    def close(self) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", self._tag], check=False)
