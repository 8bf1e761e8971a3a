"""Who may ask, how often and how much; what every answer says to a browser."""

import base64
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import redis
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.testclient import WebSocketDenialResponse

from app.main import create_app
from app.settings import Settings
from tests.app.test_api import assert_problem
from tests.helpers import serving

KEYS = "first-key-of-16-letters,second-key-of-16-letters"
FIRST, SECOND = ({"X-API-Key": key} for key in KEYS.split(","))
LIVE = "ws://testserver/api/v1/live"

ClientOf = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture(params=["memory", "redis"])
def client_of(request: pytest.FixtureRequest, bundle_path: Path) -> ClientOf:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None

    @contextmanager
    def start(address: str = "203.0.113.7", **settings: Any) -> Iterator[TestClient]:
        settings = {"bundle": bundle_path, "redis_url": url, **settings}
        app = create_app(Settings(**settings))
        base = "http://testserver/api/v1/"
        with TestClient(app, base_url=base, client=(address, 50000)) as client:
            yield client

    return start


@pytest.fixture
def fresh(redis_url: str) -> None:
    """No requests counted yet."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()


def test_with_keys_every_call_needs_one(client_of: ClientOf) -> None:
    with client_of(api_keys=KEYS) as client:
        for headers in (
            {},
            {"X-API-Key": "a-guess-of-16-letters"},
            {"Authorization": "Basic QTpC"},
        ):
            for call in (("GET", "model"), ("POST", "encode"), ("DELETE", "latents/" + "A" * 22)):
                response = client.request(*call, headers=headers)
                assert_problem(response, 401, "key-needed", "Authorization: Bearer", "X-API-Key")
                assert response.headers["www-authenticate"] == "Bearer"
        bearer = {"Authorization": "Bearer " + FIRST["X-API-Key"]}
        for headers in (FIRST, SECOND, bearer):
            assert client.get("model", headers=headers).status_code == 200
        for address in ("", "docs", "openapi.json", "healthz"):  # they hold nothing of anybody's
            assert client.get(f"http://testserver/{address}").status_code == 200


def test_the_documentation_says_how_a_key_is_sent(client_of: ClientOf) -> None:
    for keys, told in ((KEYS, True), ("", False)):
        with client_of(api_keys=keys) as client:
            document = client.get("http://testserver/openapi.json").json()
            assert ("security" in document) == told


def test_a_live_connection_needs_a_key(client_of: ClientOf) -> None:
    with client_of(api_keys=KEYS) as client:
        with pytest.raises(WebSocketDenialResponse) as denial, client.websocket_connect(LIVE):
            pass
        assert_problem(denial.value, 401, "key-needed")
        latent_id = client.post("sample", json={}, headers=FIRST).json()[0]["latent_id"]
        for headers, opens in ((FIRST, True), (SECOND, False)):
            with client.websocket_connect(LIVE, headers=headers) as live:
                live.send_json({"latent_id": latent_id, "seq": 1})
                message = live.receive()
                assert bool(message.get("bytes")) == opens


def test_a_browser_gives_its_key_as_a_subprotocol(client_of: ClientOf) -> None:
    def offer(key: str) -> list[str]:
        return ["glow-live", "key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")]

    keys = ["first-key-of-16-letters", "a/key+of=16~lettérs"]
    with client_of(api_keys=",".join(keys)) as client:
        for protocols in (offer("a-guess-of-16-letters"), ["glow-live", "key.%"], ["glow-live"]):
            with (
                pytest.raises(WebSocketDenialResponse) as denial,
                client.websocket_connect(LIVE, subprotocols=protocols),
            ):
                pass
            assert_problem(denial.value, 401, "key-needed")
        strange = client.get("/api/v1/model", headers=[(b"Sec-WebSocket-Protocol", b"key.\xe9")])
        assert_problem(strange, 401, "key-needed")
        for key in keys:
            with client.websocket_connect(LIVE, subprotocols=offer(key)) as live:
                assert live.accepted_subprotocol == "glow-live", "and never the key"
                live.send_text("{}")
                assert live.receive_json()["status"] == 422


def test_a_latent_opens_under_its_own_key_alone(client_of: ClientOf) -> None:
    with client_of(api_keys=KEYS) as client:
        latent_id = client.post("sample", json={}, headers=FIRST).json()[0]["latent_id"]
        never = "A" * 22
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "latents/{}", {}),
            ("POST", "decode", {"latent_id": "{}"}),
            ("POST", "edit", {"latent_id": "{}"}),
            ("POST", "sweep", {"latent_id": "{}", "attribute": "older"}),
            ("POST", "mix", {"latent_a": "{}", "latent_b": "{}", "t": 0.5}),
            ("DELETE", "latents/{}", {}),
        ]

        def ask(call: tuple[str, str, dict[str, Any]], id_: str, headers: dict[str, str]) -> Any:
            method, address, body = call
            body = {name: value.replace("{}", id_) if isinstance(value, str) else value
                    for name, value in body.items()}  # fmt: skip
            response = client.request(
                method, address.replace("{}", id_), json=body or None, headers=headers
            )
            return response.status_code, response.content

        for call in calls:
            assert ask(call, latent_id, SECOND) == ask(call, never, SECOND)
        for call in calls:  # the last deletes it
            status, _ = ask(call, latent_id, FIRST)
            assert status in (200, 204)


def test_a_short_key_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="16 characters") as error:
        Settings(api_keys="hunter2")
    assert "hunter2" not in str(error.value)  # which goes to the log


@pytest.mark.usefixtures("fresh")
def test_what_is_past_the_rate_is_refused(client_of: ClientOf) -> None:
    with client_of(rate_limit="3/hour") as client:
        for left in (2, 1, 0):
            response = client.get("attributes")
            assert response.status_code == 200
            assert response.headers["ratelimit-policy"] == '"default";q=3;w=3600'
            assert re.fullmatch(rf'"default";r={left};t=\d+', response.headers["ratelimit"])
        refused = client.get("model")
        assert_problem(refused, 429, "too-many-requests", "3 per 1 hour")
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        assert client.get("http://testserver/").status_code == 200  # the page is not counted


@pytest.mark.usefixtures("fresh")
def test_each_address_and_each_key_is_counted_apart(client_of: ClientOf) -> None:
    with client_of(rate_limit="1/hour") as client:
        assert client.get("model").status_code == 200
        assert client.get("model").status_code == 429
    with client_of(rate_limit="1/hour", api_keys=KEYS) as client:
        for headers, status in ((FIRST, 200), (FIRST, 429), (SECOND, 200)):
            assert client.get("model", headers=headers).status_code == status


@pytest.mark.usefixtures("fresh")
def test_the_addresses_of_one_network_are_one_client(client_of: ClientOf, redis_url: str) -> None:
    with client_of("2001:db8::1", rate_limit="1/hour", redis_url=redis_url) as client:
        assert client.get("model").status_code == 200
    with client_of("2001:db8::2", rate_limit="1/hour", redis_url=redis_url) as client:
        assert client.get("model").status_code == 429
    with client_of("2001:db8:0:1::1", rate_limit="1/hour", redis_url=redis_url) as client:
        assert client.get("model").status_code == 200


def test_while_redis_is_gone_requests_go_uncounted(bundle_path: Path) -> None:
    settings = Settings(bundle=bundle_path, redis_url="redis://127.0.0.1:1/0", rate_limit="1/hour")
    with TestClient(create_app(settings), base_url="http://testserver/api/v1/") as client:
        start = time.monotonic()
        for _ in range(3):
            response = client.get("model")
            assert response.status_code == 200
            assert "ratelimit" not in response.headers
        assert time.monotonic() - start < 10


def test_a_rate_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="rate"):
        Settings(rate_limit="often")


def test_other_origins_are_shut_out_unless_named(client_of: ClientOf) -> None:
    origin = {"Origin": "https://example.org"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    with client_of() as client:
        assert "access-control-allow-origin" not in client.get("model", headers=origin).headers
        assert client.options("edit", headers=preflight).status_code == 405
    with client_of(cors_origins="https://example.org", api_keys=KEYS) as client:
        allowed = client.options(
            "edit", headers={**preflight, "Access-Control-Request-Headers": "x-api-key"}
        )
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        answer = client.get("model", headers={**origin, **FIRST})
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        refused = client.get("model", headers=origin)  # which the page may read
        assert refused.headers["access-control-allow-origin"] == "https://example.org"
        other = client.get("model", headers={"Origin": "https://example.com", **FIRST})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("address", ["", "docs", "main.js", "api/v1/model", "api/v1/nothing"])
def test_every_answer_has_security_headers(client_of: ClientOf, address: str) -> None:
    with client_of() as client:
        headers = client.get(f"http://testserver/{address}").headers
        rules = dict(
            rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
        )
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == "'self'"
        assert rules["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        private = address.startswith("api/")
        assert headers["cache-control"] == ("no-store" if private else "no-cache")


def test_nothing_of_the_documentation_is_from_elsewhere(client_of: ClientOf) -> None:
    with client_of() as client:
        page = client.get("http://testserver/docs").text
        for address in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert client.get(f"http://testserver/{address}").status_code == 200, address
        assert "//" not in page


def test_too_many_parts_are_refused_while_they_are_read(client_of: ClientOf) -> None:
    files = [("image", ("a.png", b"x"))] * 2
    with client_of() as client:
        response = client.post("encode", files=files)
        assert_problem(response, 400, "bad-request", "files", "1")
        fields = {f"field{i}": "x" for i in range(6)}
        response = client.post("encode", files=files[:1], data=fields)
        assert_problem(response, 400, "bad-request", "fields", "4")
        response = client.post("encode", files=files[:1], data={"align": "x" * 2_000_000})
        assert_problem(response, 400, "bad-request", "exceeded")


def test_an_upload_without_a_key_is_refused_before_it_is_read(
    bundle_path: Path, tmp_path: Path
) -> None:
    """The answer is there though the body never ends."""
    with serving(tmp_path / "log", GLOW_BUNDLE=str(bundle_path), GLOW_API_KEYS=KEYS) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(
                b"POST /api/v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 401")
        assert httpx2.get(f"{url}/api/v1/model", headers=FIRST).status_code == 200
        log = (tmp_path / "log").read_text()
        assert not any(key in log for key in KEYS.split(","))
