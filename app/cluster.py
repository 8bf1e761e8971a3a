"""The service on a Ray cluster: the same application, its engine on as many devices as there are.

    serve run app.cluster:build

One deployment is the application, over HTTP; the other has a replica for each device, which Ray
Serve starts, watches, replaces and scales.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from app.device import (
    FATAL_FAILURES,
    Decoding,
    Model,
    by_halves,
    device,
    largest_batch,
    load,
)
from app.engine import Latent, Observe, busy
from app.main import create_app
from app.photos import Pixels
from app.settings import Settings
from app.telemetry import configure_logs
from model.bundle import Bundle
from model.runtime import keep_freed_memory

# Seconds that a request waits for others: Serve makes batches as requests arrive, not as the device
# gets free. On a CPU, 16 clients got 17.1 edits a second without, 20.9 with 5 ms, 21.6 with 20.
BATCH_WAIT = 0.005

# Seconds after which a request whose replica died is tried again. Serve may not know of the death
# at once; and a request that kills whoever takes it is not to kill them all.
PAUSES = (0.05, 0.5)

MOST_REPLICAS = 100  # of each: the cluster is the bound, and its own autoscaler

# the application has lines of its own, without the client's address
LOGGING = LoggingConfig(enable_access_log=False)


class Replica:
    """A bundle on one device of the cluster."""

    def __init__(self, settings: Settings) -> None:
        keep_freed_memory()
        configure_logs()
        self._model = model = Model(load(settings))
        self._thread = ThreadPoolExecutor(1, "device", model.settle)
        self._failures = 0  # in a row
        for batched in (self.encode, self.decode, self.sample):
            batched.set_max_batch_size(largest_batch(model.device))  # type: ignore[union-attr]

    @serve.batch(batch_wait_timeout_s=BATCH_WAIT)
    async def encode(self, crops: list[Pixels]) -> list[tuple[Latent, float]]:
        return await self._run(self._model.encode, crops)

    @serve.batch(batch_wait_timeout_s=BATCH_WAIT)
    async def decode(self, inputs: list[Decoding]) -> list[Pixels]:
        return await self._run(self._model.decode, inputs)

    @serve.batch(batch_wait_timeout_s=BATCH_WAIT)
    async def sample(self, draws: list[tuple[int, float, int]]) -> list[Latent]:
        return await self._run(self._model.sample, draws)

    def check_health(self) -> None:
        """Asked by Serve, which puts another in the place of one that raises."""
        if self._failures >= FATAL_FAILURES:
            raise RuntimeError(f"the last {self._failures} batches failed")

    async def _run(self, work: Callable[[list[Any]], Sequence[Any]], batch: list[Any]) -> list[Any]:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, by_halves, work, batch)
        except Exception:
            self._failures += 1
            raise
        self._failures = 0
        return results


class RayEngine:
    """The engine on the replicas of a deployment.

    What a replica had in its hands when it died is done by another: nothing that an engine does
    leaves a trace. Of the bundle it has the description; the flow is never run here.
    """

    def __init__(self, bundle: Bundle, replicas: DeploymentHandle[Any], deadline: float) -> None:
        self.bundle = bundle
        self._replicas = replicas
        self._deadline = deadline
        self.waiting = 0  # those in replicas' hands too

    @property
    def healthy(self) -> bool:
        """Always: it is Serve that replaces replicas, and a restart of this process would not."""
        return True

    async def encode(self, crop: Pixels) -> tuple[Latent, float]:
        latent, bits_per_dim = await self._result(self._replicas.encode, crop)
        return latent, bits_per_dim

    async def decode(
        self,
        latent: Latent,
        strengths: dict[str, float] | None = None,
        offset: Latent | None = None,
    ) -> Pixels:
        inputs: Decoding = (latent, strengths or {}, offset)
        crop: Pixels = await self._result(self._replicas.decode, inputs)
        return crop

    async def sample(self, count: int, temperature: float, seed: int) -> Latent:
        latents: Latent = await self._result(self._replicas.sample, (count, temperature, seed))
        return latents

    def close(self) -> None:
        """Nothing to do: Serve ends a replica when it has answered what it accepted."""

    async def _result(self, call: DeploymentHandle[Any], input: Any) -> Any:
        self.waiting += 1
        try:
            async with asyncio.timeout(self._deadline):
                for pause in PAUSES:
                    with suppress(RayActorError):
                        return await _answer(call, input)
                    await asyncio.sleep(pause)
                return await _answer(call, input)
        except (TimeoutError, RequestCancelledError):  # by the deadline, or by Serve
            raise busy("the request was not reached in time") from None
        except BackPressureError:
            raise busy("too many requests wait already") from None
        except (RayActorError, DeploymentUnavailableError):
            raise busy("its devices fail") from None
        finally:
            self.waiting -= 1


async def _answer(call: DeploymentHandle[Any], input: Any) -> Any:
    """Raises Problem 503 where the device has no memory even for this one alone."""
    response = call.remote(input)
    try:
        answer = await response
    except asyncio.CancelledError:
        response.cancel()  # type: ignore[no-untyped-call]
        raise
    if isinstance(answer, Exception):
        raise busy("its memory is taken")
    return answer


@serve.ingress()
class Ingress:
    """The application, on a processor."""

    def __init__(self, settings: Settings, replicas: DeploymentHandle[Any]) -> None:
        configure_logs()
        self._settings = settings
        self._replicas = replicas

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._settings, self._engine)

    def _engine(self, settings: Settings, _: Observe) -> RayEngine:
        return RayEngine(Bundle.load(settings.bundle), self._replicas, settings.deadline)


def build(settings: Settings) -> Application:
    """What Serve runs, by the settings of where this is called; what is given to Serve as arguments
    comes before the environment.

    Raises ValueError without a Redis, since one replica's latents are unknown to the next.
    """
    if not settings.redis_url:
        raise ValueError("on a cluster, latents are kept in Redis: set GLOW_REDIS_URL")
    kind = device(settings.device)
    largest = largest_batch(kind)
    finish = settings.deadline + 10  # longer than what was accepted waits for the model
    replicas = serve.deployment(
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=finish,
        ray_actor_options={"num_cpus": 1} if kind.type == "cpu" else {"num_gpus": 1},
        max_ongoing_requests=2 * largest,  # a batch on the device, and one that waits for it
        max_queued_requests=settings.queue,
        autoscaling_config={"target_ongoing_requests": largest, "max_replicas": MOST_REPLICAS},
    )(Replica)
    ingress = serve.deployment(
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=finish,
        max_ongoing_requests=1024,  # a live connection is one for as long as it is open
        autoscaling_config={"target_ongoing_requests": 64, "max_replicas": MOST_REPLICAS},
    )(Ingress)
    return ingress.bind(settings, replicas.bind(settings))
