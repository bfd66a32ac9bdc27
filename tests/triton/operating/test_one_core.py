"""A server that may use one core starts no thread for another, whatever the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dyndet_bench.measuring.machine import describe_machine
from dyndet_bench.measuring.served import Served
from dyndet_builder.doctor import doctor
from dyndet_builder.repository.config import TOPOLOGIES
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from tests.support.toy_bundle import image, write_toy_bundle


@pytest.fixture
def one_core() -> Iterator[None]:
    """Let this process and those that it starts run on one core."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this machine has one core")
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("one_core")
def test_stages_have_as_many_threads_as_the_server_may_use_cores(tmp_path: Path) -> None:
    """`--threads` of all cores is then the same as `--threads 1`, which the same server also serves."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    folders = []
    for topology in TOPOLOGIES:
        for threads in (0, 1):
            options = RenderOptions(name=f"{topology}_{threads}", topology=topology, threads=threads, bls_instances=1)
            folders.append(render(bundle, tmp_path / f"{topology}_{threads}", options))
    others = tuple(f"--model-repository={folder}" for folder in folders[1:])
    with TritonServer(folders[0], ServerOptions(extra_arguments=others)) as server:
        with Served(server.grpc_url, "bls_0", metrics_url=server.metrics_url) as served:
            assert served.infer(image(10), threshold=0.5, outputs=("route",))["route"].item() == 1
        threads = {}
        for process in psutil.Process(server.pid).children(recursive=True):
            model = next((Path(word).parts[-3] for word in process.cmdline() if word.endswith("/1/model.py")), "")
            threads[model] = process.num_threads()
        for model in ("bls_{}_backbone1", "bls_{}_detector2", "fused_{}"):
            assert threads[model.format(0)] == threads[model.format(1)] > 0, model
    assert describe_machine()["cores"] == "1"
    (found,) = doctor(("cores",))
    assert found.present and found.detail.startswith("1 used of ") and "affinity 1, " in found.detail
