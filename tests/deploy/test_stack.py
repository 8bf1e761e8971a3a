"""What docker-compose.yml describes, its own commands run on hosts of their own: two servers of
the image, a Redis with a password and a bound, and the proxy before them."""

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
import yaml

from app.client import GlowEditor, GlowError
from tests.deploy import network
from tests.deploy.image import Image
from tests.deploy.network import LAST, SUBNET, Network
from tests.helpers import ROOT, encoded, pixels_of, wait_until

FILE = ROOT / "docker-compose.yml"
STACK: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
BIN = Path(sys.executable).parent
SERVERS = ("api", "api-cpu")


def interpolated(text: str, **values: str) -> str:
    """As Compose does: ${NAME:-default}, and $$ for a dollar."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: values.get(m[1], m[2]), text)
    return text.replace("$$", "$")


class TestFile:
    def test_it_is_what_compose_reads(self) -> None:
        check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
        done = subprocess.run(check, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_only_the_proxy_is_open_to_the_world(self) -> None:
        assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
        assert STACK["networks"]["store"] == STACK["networks"]["front"] == {"internal": True}
        assert SERVICES["redis"]["networks"] == ["store"]
        assert "store" not in SERVICES["proxy"]["networks"]

    @pytest.mark.parametrize("name", SERVICES)
    def test_every_service_has_what_rights_it_needs(self, name: str) -> None:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        image = service["image"]
        assert image.startswith("glow-editor") or re.search(r":\d+\.\d+\.\d+-alpine$", image)

    def test_what_starts_waits_for_what_it_needs(self) -> None:
        for name in SERVERS:
            assert SERVICES[name]["depends_on"]["redis"]["condition"] == "service_healthy"
            waits = SERVICES["proxy"]["depends_on"][name]
            assert waits == {"condition": "service_healthy", "required": False}
        assert "healthcheck" in SERVICES["redis"]
        secret = SERVICES["redis"]["depends_on"]["secret"]["condition"]
        assert secret == "service_completed_successfully"

    def test_a_gpu_is_reserved_unless_the_profile_is_cpu(self) -> None:
        gpu, cpu = (SERVICES[name] for name in SERVERS)
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        assert (gpu["profiles"], cpu["profiles"]) == (["gpu"], ["cpu"])
        assert "deploy" not in cpu
        assert cpu["build"]["args"]["VARIANT"] == "cpu"
        assert "COMPOSE_PROFILES=gpu" in (ROOT / ".env").read_text().splitlines()

    def test_servers_are_one_to_the_proxy(self) -> None:
        assert SERVICES["api-cpu"]["networks"]["front"]["aliases"] == ["api"]

    def test_settings_that_are_handed_on_are_the_services(self) -> None:
        from app.settings import Settings

        known = {f"GLOW_{name.upper()}" for name in Settings.model_fields}
        named = {name for s in SERVERS for name in SERVICES[s]["environment"]}
        assert {name for name in named if name.startswith("GLOW_")} <= known

    def test_the_proxys_file_is_in_order(self) -> None:
        caddy, file = BIN / "caddy", ROOT / "deploy" / "Caddyfile"
        version = subprocess.run([caddy, "version"], capture_output=True, text=True).stdout
        assert SERVICES["proxy"]["image"] == f"caddy:{version.split()[0][1:]}-alpine"
        check = [caddy, "validate", "--adapter", "caddyfile", "--config", file]
        done = subprocess.run(check, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tidy = subprocess.run([caddy, "fmt", file], capture_output=True, text=True)
        assert tidy.stdout == file.read_text()


IN_CONTAINER = """
mount -t tmpfs tmpfs /run && mkdir /run/glow && mount --bind "$1" /run/glow
cd "$2"; shift 2; exec "$@"
"""


@dataclass
class Running:
    url: str
    servers: list[subprocess.Popen[bytes]]
    addresses: list[str]
    redis: str
    password: str


@pytest.fixture(scope="module")
def stack(image: Image, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if reason := network.why_not():
        pytest.skip(reason)
    folder, secret = tmp_path_factory.mktemp("stack"), tmp_path_factory.mktemp("secret")
    secret.parent.chmod(0o755)
    secret.chmod(0o755)
    hosts = Network(["redis", "api", "api", "proxy"], folder / "hosts")
    processes: list[subprocess.Popen[bytes]] = []

    def start(host: int, command: list[str], log: str, **environment: str) -> None:
        inside = ["unshare", "--mount", "sh", "-c", IN_CONTAINER, "sh", str(secret), str(folder)]
        with (logs / log).open("wb") as output:
            processes.append(
                subprocess.Popen(
                    [*hosts.on(host), *inside, *command],
                    env={**os.environ, **environment},
                    stdout=output,
                    stderr=output,
                )
            )

    try:
        start(0, [*SERVICES["secret"]["entrypoint"], *commands("secret")], "secret")
        assert processes[0].wait(20) == 0
        password = (secret / "redis-password").read_text().strip()
        start(0, [*SERVICES["redis"]["entrypoint"], *commands("redis")], "redis")
        check = [*hosts.on(0), "unshare", "--mount", "sh", "-c", IN_CONTAINER, "sh"]
        check += [str(secret), str(folder), "sh", "-c"]
        check += [interpolated(SERVICES["redis"]["healthcheck"]["test"][1])]
        wait_until(
            lambda: subprocess.run(check, capture_output=True).returncode == 0, processes[-1]
        )
        environment = {
            "OMP_NUM_THREADS": "1",
            "FORWARDED_ALLOW_IPS": SERVICES["api"]["environment"]["FORWARDED_ALLOW_IPS"],
            "GLOW_RATE_LIMIT": "400/minute",
        }
        for host in (1, 2):
            with (logs / f"server{host}").open("wb") as output:
                processes.append(
                    image.start(
                        commands("api-cpu"),
                        prefix=hosts.on(host),
                        environment=environment,
                        files={"/run/glow": secret, "/etc/hosts": folder / "hosts"},
                        stdout=output,
                        stderr=output,
                    )
                )
        for host in (1, 2):
            address = f"http://{hosts.addresses[host]}:8000/readyz"
            wait_until(lambda address=address: answers(address), processes[host + 1], 120)
        site = f"http://{hosts.addresses[3]}, https://{hosts.addresses[3]}"
        command = [str(BIN / "caddy"), "run", "--adapter", "caddyfile", "--config"]
        start(
            3,
            [*command, str(ROOT / "deploy" / "Caddyfile")],
            "proxy",
            GLOW_SITE=site,
            XDG_DATA_HOME=str(folder / "data"),
            XDG_CONFIG_HOME=str(folder / "config"),
        )
        url = f"http://{hosts.addresses[3]}"
        wait_until(lambda: answers(url), processes[-1])
        yield Running(url, processes[2:4], hosts.addresses[1:3], hosts.addresses[0], password)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
        hosts.close()


def commands(service: str) -> list[str]:
    return [interpolated(word) for word in SERVICES[service]["command"]]


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def served(address: str) -> float:
    """Requests to decode that a server has answered."""
    text = httpx2.get(f"http://{address}:8000/metrics").text
    found = re.findall(r'^glow_requests_total\{.*route="/decode".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


class TestRunning:
    def test_a_photograph_through_the_proxy(self, stack: Running, portrait: np.ndarray) -> None:
        with GlowEditor(stack.url) as glow:
            latent_id = glow.encode(encoded(portrait))["latent_id"]
            assert (pixels_of(glow.edit(latent_id, {}, output="photo")) == portrait).all()
            with glow.live("png") as live:
                number = live.send(latent_id, {"older": 0.5})
                assert live.receive()[0] == number
            glow.delete(latent_id)
            with pytest.raises(GlowError, match="Upload the photograph again"):
                glow.describe(latent_id)

    def test_the_page_and_not_the_metrics(self, stack: Running) -> None:
        assert "Glow Editor" in httpx2.get(stack.url).text
        assert httpx2.get(f"{stack.url}/metrics").status_code == 404

    def test_replicas_share_the_work_and_one_may_die(self, stack: Running) -> None:
        with GlowEditor(stack.url) as glow:
            latent_id = glow.sample()[0]["latent_id"]
            for _ in range(10):
                glow.decode(latent_id)
            assert all(served(address) > 0 for address in stack.addresses)
            stack.servers[0].kill()  # it may die with one of these in its hands
            for _ in range(10):
                glow.decode(latent_id)

    def test_clients_are_told_apart_by_what_the_proxy_says_and_not_by_what_they_say(
        self, stack: Running
    ) -> None:
        """The rate is that of the client's address, which no header of its own changes."""

        def left(forwarded: str) -> int:
            answer = httpx2.get(f"{stack.url}/api/v1/model", headers={"X-Forwarded-For": forwarded})
            return int(re.search(r"r=(\d+)", answer.headers["RateLimit"])[1])

        assert left("192.0.2.1") > left("192.0.2.2") > left("192.0.2.3")
        database = redis.Redis(stack.redis, password=stack.password)
        counted = b" ".join(database.scan_iter("glow:rate*"))
        assert f"{SUBNET}.{LAST}".encode() in counted
        assert b"192.0.2" not in counted

    def test_redis_has_its_password_and_its_bound(self, stack: Running) -> None:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(stack.redis).ping()
        database = redis.Redis(stack.redis, password=stack.password, decode_responses=True)
        config = database.config_get("maxmemory*", "save", "appendonly")
        assert int(config["maxmemory"]) == 4 * 2**30
        assert config["maxmemory-policy"] == "volatile-ttl"
        assert (config["save"], config["appendonly"]) == ("", "no")

    def test_https_is_ready(self, stack: Running, tmp_path_factory: pytest.TempPathFactory) -> None:
        data = next(tmp_path_factory.getbasetemp().glob("stack*")) / "data"
        root = data / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        wait_until(root.exists)
        trusting = ssl.create_default_context(cafile=root)
        answer = httpx2.get(stack.url.replace("http", "https"), verify=trusting)
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert "Glow Editor" in answer.text

    def test_with_no_server_left_it_says_so(self, stack: Running) -> None:
        for server in stack.servers:
            server.kill()
        answer = httpx2.get(f"{stack.url}/api/v1/model", timeout=30)
        assert answer.status_code in (502, 503)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = json.loads(answer.text)
        assert problem["status"] == answer.status_code
        assert "try again" in problem["detail"]
        assert answer.headers["Retry-After"] == "1"
