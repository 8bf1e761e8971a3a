"""The API from Python, a method for each call.

    with GlowEditor("http://127.0.0.1:8000") as glow:
        face = glow.encode(Path("portrait.jpg"))
        picture = glow.edit(face["latent_id"], {"smiling": 0.7}, output="photo")

Pictures are the bytes of a file; descriptions are dicts with the fields that /docs lists.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import httpx2
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

Photograph = Path | bytes
Format = Literal["png", "webp", "jpeg"]
Output = Literal["crop", "photo"]
Latent = NDArray[np.float32]  # flat, levels in order


class GlowError(Exception):
    """What the server said it cannot do, and why; `kind` names it for programs. Where trying again
    helps, `retry_after` is in how many seconds."""

    def __init__(self, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(problem["detail"])
        self.status: int = problem["status"]
        self.kind: str = problem["type"].rpartition(":")[2]
        self.retry_after = retry_after


class GlowEditor:
    """A server, by its address and, where it asks for one, a key.

    Every call raises GlowError where the server refuses, and httpx2.TransportError where it cannot
    be reached. One client may be used by several threads.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout: float = 60.0
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        base = f"{url.rstrip('/')}/api/v1/"
        self._http = httpx2.Client(base_url=base, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def model(self) -> dict[str, Any]:
        """What is served: name, resolution, card."""
        return self._json("GET", "model")

    def attributes(self) -> list[dict[str, Any]]:
        """What faces can be edited by, and the range of each."""
        return self._list("GET", "attributes")

    def encode(self, image: Photograph, align: str = "auto") -> dict[str, Any]:
        """Find the face (`auto`), take the middle (`none`) or a box `x,y,size,angle`, and encode
        it; `latent_id` names it in all other calls."""
        return self._json("POST", "encode", files={"image": _bytes(image)}, data={"align": align})

    def describe(self, latent_id: str) -> dict[str, Any]:
        """Its model, its shapes, and the seconds left to it."""
        return self._json("GET", f"latents/{latent_id}")

    def latent(self, latent_id: str) -> Latent:
        """Its numbers, (dimensions,)."""
        npy = self._call("GET", f"latents/{latent_id}", headers={"Accept": NPY})
        latent: Latent = np.load(io.BytesIO(npy.content))
        return latent

    def delete(self, latent_id: str) -> None:
        """Forget a latent and its photograph."""
        self._call("DELETE", f"latents/{latent_id}")

    def decode(self, latent: str | Latent, format: Format = "png") -> bytes:
        """The picture of a latent, by id or as its numbers."""
        if isinstance(latent, str):
            return self._picture("decode", format, json={"latent_id": latent})
        npy = io.BytesIO()
        np.save(npy, latent.astype(np.float32))
        headers = {"Content-Type": NPY}
        return self._picture("decode", format, content=npy.getvalue(), headers=headers)

    def edit(
        self,
        latent_id: str,
        attributes: Mapping[str, float],
        output: Output = "crop",
        format: Format = "png",
    ) -> bytes:
        """Move a latent by strengths of attributes; `photo` is the whole photograph."""
        return self._picture("edit", format, json=_edit(latent_id, attributes, output))

    def sweep(
        self,
        latent_id: str,
        attribute: str,
        start: float | None = None,
        stop: float | None = None,
        steps: int = 7,
        format: Format = "png",
    ) -> bytes:
        """A strip of one attribute, over its whole range where none is given."""
        wanted = {"latent_id": latent_id, "attribute": attribute, "steps": steps}
        return self._picture("sweep", format, json={**wanted, "start": start, "stop": stop})

    def mix(
        self,
        latent_a: str,
        latent_b: str,
        t: float | None = None,
        steps: int | None = None,
        format: Format = "png",
    ) -> bytes:
        """Between two faces: the one at share `t` of the way, or a strip of `steps`."""
        wanted = {"latent_a": latent_a, "latent_b": latent_b, "t": t, "steps": steps}
        return self._picture("mix", format, json=wanted)

    def sample(
        self, count: int = 1, temperature: float = 0.7, seed: int = 0
    ) -> list[dict[str, Any]]:
        """Faces that never were."""
        wanted = {"count": count, "temperature": temperature, "seed": seed}
        return self._list("POST", "sample", json=wanted)

    def add_attribute(
        self, name: str, positive: Iterable[Photograph], negative: Iterable[Photograph]
    ) -> dict[str, Any]:
        """An attribute of your own, from photographs of faces with it and without."""
        kinds = (("positive[]", positive), ("negative[]", negative))
        examples = [(kind, _bytes(image)) for kind, images in kinds for image in images]
        return self._json("POST", "attributes", data={"name": name}, files=examples)

    def delete_attribute(self, name: str) -> None:
        """Forget an attribute of your own."""
        self._call("DELETE", f"attributes/{name}")

    @contextmanager
    def live(self, format: Format = "jpeg") -> Iterator["Live"]:
        """A connection for edits in quick succession."""
        request = self._http.build_request("GET", f"live?format={format}")  # has cookies, the key
        headers = {k: v for k, v in request.headers.items() if k in ("authorization", "cookie")}
        address = f"ws{str(request.url).removeprefix('http')}"
        with connect(address, additional_headers=headers) as socket:
            yield Live(socket)

    def _call(self, method: str, path: str, **request: Any) -> httpx2.Response:
        response = self._http.request(method, path, **request)
        if response.is_error:
            seconds = response.headers.get("Retry-After")
            raise GlowError(_problem(response), float(seconds) if seconds else None)
        return response

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._call(method, path, **request).json()
        return found

    def _list(self, method: str, path: str, **request: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call(method, path, **request).json()
        return found

    def _picture(self, path: str, format: Format, **request: Any) -> bytes:
        headers = {"Accept": f"image/{format}", **request.pop("headers", {})}
        return self._call("POST", path, headers=headers, **request).content


class Live:
    """Edits over one connection. Of frames sent while a picture is being made, only the newest is
    answered."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._seq = -1

    def send(self, latent_id: str, attributes: Mapping[str, float], output: Output = "crop") -> int:
        """Ask for a picture; the number that it will come with."""
        self._seq += 1
        frame = {**_edit(latent_id, attributes, output), "seq": self._seq}
        self._socket.send(json.dumps(frame))
        return self._seq

    def receive(self, timeout: float = 60.0) -> tuple[int, bytes]:
        """The next picture, and the number of the frame that it answers."""
        frame = self._socket.recv(timeout)
        if isinstance(frame, str):
            raise GlowError(json.loads(frame))
        return int.from_bytes(frame[:4], "big"), frame[4:]


NPY = "application/x-npy"


def _bytes(image: Photograph) -> bytes:
    return image.read_bytes() if isinstance(image, Path) else image


def _edit(latent_id: str, attributes: Mapping[str, float], output: Output) -> dict[str, Any]:
    return {"latent_id": latent_id, "attributes": dict(attributes), "output": output}


def _problem(response: httpx2.Response) -> dict[str, Any]:
    """What a server says is wrong; a proxy before it may say it otherwise."""
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        problem: dict[str, Any] = response.json()
        return problem
    detail = response.text or response.reason_phrase
    return {"type": "http", "status": response.status_code, "detail": detail}
