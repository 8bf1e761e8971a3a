"""The service on a Ray cluster of two nodes on this machine, under closed-loop clients: with one
replica of the model and with two, beside the server that is one process.

    python benchmarks/scale.py [--bundle PATH] [--seconds N]

Nodes, clients and Redis share the cores that this process may use, so two replicas cannot do more
than one where one, with what is around it, keeps all of them busy.
"""

import asyncio
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import torch
import typer
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.scripts import cli

from model.bundle import Bundle, Direction
from service import SHIPPED, edits, free_port, redis, server

NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
CLIENTS = (1, 16, 64)


@contextmanager
def cluster(**environment: str) -> Iterator[None]:
    """Two nodes, each of two processors as Ray counts, with an environment."""
    with tempfile.TemporaryDirectory(prefix="glow", ignore_cleanup_errors=True) as folder:
        # Ray by itself writes the address to a folder that a fresh machine lacks, and does not
        # make it
        os.environ |= environment | {"RAY_TMPDIR": folder}
        temporary = Path(folder, "ray")
        temporary.mkdir()
        head = {**NODE, "temp_dir": str(temporary)}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes.add_node(**NODE)
            ray.init(nodes.address, namespace="serve", log_to_driver=False, logging_level="warning")
            yield
        finally:
            ray.shutdown()
            nodes.shutdown()


def deploy(replicas: int, port: int) -> None:
    """Returns when so many replicas are running."""
    scaling = {"min_replicas": replicas, "max_replicas": replicas}
    application = {
        "name": "glow-editor",
        "import_path": "app.cluster:build",
        "deployments": [{"name": "Replica", "autoscaling_config": scaling}],
    }
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [application],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        cli(["run", "--non-blocking", file.name], standalone_mode=False)
    while running("Replica") != replicas or running("Ingress") != 1:
        time.sleep(0.2)


def running(deployment: str) -> int:
    deployments: dict[str, Any] = serve.status().applications["glow-editor"].deployments
    states = deployments[deployment].replica_states if deployment in deployments else {}
    return int(states.get("RUNNING", 0))


def row(url: str, direction: Direction, seconds: float) -> str:
    cells = []
    for clients in CLIENTS:
        rate, latencies = asyncio.run(edits(url, direction, clients, seconds))
        cells.append(f"{rate:.1f} edits/s, p50 {np.median(latencies) * 1000:.0f} ms")
    return " | ".join(cells)


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")] = SHIPPED,
    seconds: Annotated[float, typer.Option(min=1, help="Of every measurement.")] = 10.0,
) -> None:
    """Measure the service on a cluster."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    direction = Bundle.load(bundle).directions[0]
    cores = len(os.sched_getaffinity(0))
    print(
        f"{bundle.stem}, CPU {platform.machine()}, {cores} core(s) for clients, servers and Redis, "
        f"torch {torch.__version__}, Ray {ray.__version__}, load of the machine at the start "
        f"{os.getloadavg()[0]:.1f}; {seconds:.0f} s each\n"
    )
    head = " | ".join(f"{clients} clients" for clients in CLIENTS)
    rows = {}
    with redis() as store:
        with server(["-m", "app"], free_port(), bundle, store) as (url, _):
            rows["one process"] = row(url, direction, seconds)
        environment = {
            "GLOW_BUNDLE": str(bundle),
            "GLOW_REDIS_URL": store,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        port = free_port()
        with cluster(**environment):
            for replicas in (1, 2):
                deploy(replicas, port)
                name = f"{replicas} replica(s)"
                rows[name] = row(f"http://127.0.0.1:{port}", direction, seconds)
    print(f"| | {head} |\n| --- |{' --- |' * len(CLIENTS)}")
    for name, cells in rows.items():
        print(f"| {name} | {cells} |")


if __name__ == "__main__":
    typer.run(main)
