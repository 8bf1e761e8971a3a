"""A Ray cluster of two nodes on this machine, and an application on it, until it is told to stop:

    python -m tests.deploy.cluster CONFIG FOLDER

FOLDER holds all that Ray writes, and `states`: how many replicas of each deployment are running.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.scripts import cli

NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}


def main(config: str, folder: Path) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # where Ray by itself looks for the address of a cluster, and does not make the folder
    os.environ["RAY_TMPDIR"] = str(folder)
    temporary = folder / "ray"
    temporary.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": str(temporary)})
    try:
        cluster.add_node(**NODE)
        ray.init(cluster.address, namespace="serve", log_to_driver=False)
        cli(["run", "--non-blocking", config], standalone_mode=False)
        while True:
            part = folder / "states.part"
            part.write_text(json.dumps(running()))
            part.replace(folder / "states")
            time.sleep(0.2)
    finally:
        ray.shutdown()
        cluster.shutdown()


def running() -> dict[str, int]:
    return {
        name: deployment.replica_states.get("RUNNING", 0)
        for application in serve.status().applications.values()
        for name, deployment in application.deployments.items()
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
