"""Training on two hosts that know of each other by a rendezvous alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.deploy import network
from tests.deploy.network import Network
from tests.helpers import ROOT
from tests.model.test_train import train_command, weights_of


def test_two_hosts_learn_what_one_does(tmp_path: Path) -> None:
    if reason := network.why_not():
        pytest.skip(reason)
    faces = tmp_path / "faces"
    faces.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    for number, face in enumerate(pixels):
        Image.fromarray(face).save(faces / f"{number:02}.png")
    alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *train_command(faces, alone, 3)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    hosts = Network(["first", "second"], tmp_path / "hosts")
    try:
        processes = []
        for host in (0, 1):
            torchrun = [sys.executable, "-m", "torch.distributed.run"]
            torchrun += ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv-id", "faces"]
            torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "first:29400"]
            flag, *arguments = train_command(faces, together, 3)
            torchrun += [flag, "--", *arguments]
            processes.append(
                subprocess.Popen(
                    [*hosts.on(host), *torchrun],
                    env={**environment, "GLOO_SOCKET_IFNAME": "eth0"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
        outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    finally:
        for process in processes:
            process.kill()
        hosts.close()
    expected = weights_of(alone)
    for name, weight in weights_of(together).items():
        # bfloat16 networks and the order of sums; Adam's first steps magnify either
        torch.testing.assert_close(weight, expected[name], rtol=0.05, atol=0.01)
