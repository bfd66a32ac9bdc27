"""Both topologies side by side on the real server: what is counted, which is chosen, what serving is compared with."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from dynamicdet.cores import usable_cores
from dynamicdet.errors import InputError, ServerError
from dyndet_bench.comparisons.bare import BareStages
from dyndet_bench.comparisons.baselines import write_baselines
from dyndet_bench.comparisons.serving import FLOOR, MIXES, measure_serving
from dyndet_bench.comparisons.systems import POOLED
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.served import Served
from dyndet_builder.calibration.topology import choose_topology
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.config import MEASURED_TOPOLOGIES
from dyndet_builder.repository.marker import read_marker
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from tests.support.counting import settled
from tests.support.toy_bundle import image, write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of the network's size with ascending difficulties, as PNG files, so their pixels do not change."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        Image.fromarray(image(red=30 * number, seed=number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def both(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Path]]:
    """One server with both topologies and the baselines of the first, and the repository of the first."""
    folder = tmp_path_factory.mktemp("both")
    for topology in ("bls", "fused"):
        render(bundle, folder / topology, RenderOptions(name=topology, topology=topology))  # type: ignore[arg-type]
    write_baselines(read_rendered(folder / "bls").stage_configs, folder / "baselines", name="bls")
    others = tuple(f"--model-repository={folder / other}" for other in ("fused", "baselines"))
    with TritonServer(folder / "bls", ServerOptions(extra_arguments=others)) as server:
        yield server, folder / "bls"


@pytest.mark.parametrize("model", ["bls", "fused"])
def test_the_server_counts_hard_images_in_either_topology(both: tuple[TritonServer, Path], model: str) -> None:
    server, _ = both
    with Served(server.grpc_url, model, metrics_url=server.metrics_url) as served:
        with pytest.raises(ServerError):  # has no route, but Triton counts its image
            served.infer(image(10), threshold=7, outputs=("route",))
        before, times = settled(served.counts), served.times()
        for red in (10, 20, 200, 240, 250):
            served.infer(image(red), threshold=0.5, outputs=("num_detections",))
        counted, spent = served.counts_after(before, 5).since(before), served.times().since(times)
    assert (counted.total, counted.hard) == (5, 3)
    assert spent.requests == 5
    assert 0 < spent.compute_ms < spent.inside_ms


def test_probes_are_not_measured(both: tuple[TritonServer, Path]) -> None:
    server, _ = both
    with Served(server.grpc_url, "fused", metrics_url=server.metrics_url) as served:
        before = settled(served.counts)
        for threshold in (0.0, 1.0):
            served.infer(image(10), threshold=threshold, outputs=("route",), parameters={"dyndet_probe": True})
        served.infer(image(200), threshold=0.5, outputs=("route",))
        counted = served.counts_after(before, 1).since(before)
    assert (counted.total, counted.hard) == (1, 1)


def test_metrics_of_another_server_are_refused(both: tuple[TritonServer, Path], bundle: Path, tmp_path: Path) -> None:
    """A fused detector is counted by its metrics: those of a server that answered other requests are no evidence."""
    server, _ = both
    render(bundle, tmp_path / "other", RenderOptions(name="fused", topology="fused"))
    with TritonServer(tmp_path / "other", ServerOptions(warm_up=False)) as other:
        _wait_for(other.metrics_url)  # opened last of the three ports
        with Served(server.grpc_url, "fused", metrics_url=other.metrics_url) as served:
            served.metrics.patience_s = 0.2
            served.counts()
            served.infer(image(10), threshold=0.5, outputs=("route",))
            with pytest.raises(ServerError, match=r"do not count the images of model 'fused'.*--metrics-url"):
                served.counts()
        with Served(server.grpc_url, "fused", metrics_url="127.0.0.1:9") as served:
            with pytest.raises(ServerError, match=r"cannot be read at http://127.0.0.1:9/metrics \(.*--metrics-url"):
                served.counts()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_baselines_answer_as_the_detector_does(both: tuple[TritonServer, Path]) -> None:
    """Textbook BLS on both routes, and the two ensembles, each on its one."""
    server, repository = both
    client = triton.InferenceServerClient(server.grpc_url)
    bare = BareStages(read_rendered(repository).graphs)
    for picture, threshold in ((image(102, blue=7), 0.9), (image(102, blue=7), 0.1)):
        expected = bare.answer(picture, threshold)
        models = ["bls_textbook", "bls_detector1" if threshold == 0.9 else "bls_static"]
        for model in models:
            dtype = np.float32 if model == "bls_textbook" else np.uint8
            inputs = [triton.InferInput("image", [1, *picture.shape], "FP32" if dtype == np.float32 else "UINT8")]
            inputs[0].set_data_from_numpy(picture[None].astype(dtype))
            if model == "bls_textbook":
                inputs.append(triton.InferInput("threshold", [1, 1], "FP32"))
                inputs[1].set_data_from_numpy(np.array([[threshold]], np.float32))
            answer = client.infer(model, inputs)
            for name, array in zip(("num_detections", "boxes", "scores", "classes"), expected, strict=True):
                assert np.allclose(answer.as_numpy(name), array, rtol=1e-5, atol=1e-4), (model, name)
    client.close()


def test_every_way_to_serve_is_measured_beside_the_floor(both: tuple[TritonServer, Path], pictures: Path) -> None:
    server, repository = both
    graphs = read_rendered(repository).cpu_graphs
    record = measure_serving(
        server.grpc_url,
        graphs=graphs,
        images=pictures,
        detectors={"bls": "bls"},
        concurrency=2,
        rounds=1,
        hard_share=0.5,
    )
    assert record.systems[0] == FLOOR
    assert record.images == 8
    assert record.threshold == pytest.approx(90 / 255)  # the fourth of eight
    for mix in MIXES:
        for load in (1, 2):
            floor, cell = record.cell(FLOOR, mix, load), record.cell("bls", mix, load)
            assert floor is not None and cell is not None
            assert floor.ratio == 1
            figures = (cell.p50_ms, floor.p50_ms) if load == 1 else (cell.throughput_per_s, floor.throughput_per_s)
            assert cell.ratio == pytest.approx(figures[0] / figures[1])
        pooled, alone, together = record.cell(POOLED, mix, 1), record.cell("bls", mix, 1), record.cell("bls", mix, 2)
        assert pooled is not None and alone is not None and together is not None
        assert pooled.p50_ms is not None and alone.p50_ms is not None
        assert alone.pool_ratio == pytest.approx(alone.p50_ms / pooled.p50_ms)
        assert together.pool_ratio is None
    with pytest.raises(InputError, match="hard share between 0 and 1"):
        measure_serving(server.grpc_url, graphs=graphs, images=pictures, detectors={"bls": "bls"}, hard_share=1)


def test_render_auto_keeps_the_faster_topology_and_says_why(
    bundle: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "models"
    words = ["render", str(bundle), str(output), "--topology", "auto", "--images", str(pictures), "--rounds", "2"]
    words += ["--measurements", str(tmp_path / "measurements")]
    assert run(dyndet, words) == 0
    found = read_marker(output).detectors["toy"]
    assert found.chosen_by is not None and found.chosen_by["rounds"] == 2
    measured, topology = found.chosen_by["measured"], found.options["topology"]
    sums = {name: means["easy_ms"] + means["hard_ms"] for name, means in measured.items()}
    assert set(sums) == {"bls", "fused"}
    assert topology == min(sums, key=lambda name: sums[name])
    assert f"{topology:5}" in capsys.readouterr().out.split("<- faster")[0].splitlines()[-1]
    assert (output / "toy" / "1" / "backbone1.onnx").exists() == (topology == "fused")


def test_a_load_with_several_images_in_flight_also_decides_instances_and_threads(
    bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    """All four ways are served at once; what is rendered is the fastest of them, and all are on record."""
    options, load = RenderOptions(name="street", queue_size=99), Load(request_rate=40)
    choice = choose_topology(bundle, pictures, options, load=load, divide=True, rounds=1)
    assert choice is not None and choice.load == str(load)
    cores = usable_cores()
    divisions = [(1, 0), (cores, 1)] if cores > 1 else [(1, 0)]
    served = [(way.topology, way.instances, way.threads) for way in choice.compared]
    assert sorted(served) == sorted((topology, *division) for topology in MEASURED_TOPOLOGIES for division in divisions)
    sums = [way.means.easy_ms + way.means.hard_ms for way in choice.compared]
    assert sums == sorted(sums) and (choice.topology, choice.instances, choice.threads) == served[0]
    assert choice.measured[choice.topology] == choice.compared[0].means
    render(bundle, tmp_path / "models", choice.applied(options), chosen_by=asdict(choice))
    found = read_marker(tmp_path / "models").detectors["street"]
    assert (found.options["instances"], found.options["threads"]) == (choice.instances, choice.threads)
    assert found.options["queue_size"] == 99 and found.chosen_by is not None
    assert [way["means"]["easy_ms"] for way in found.chosen_by["compared"]] == [
        way.means.easy_ms for way in choice.compared
    ]


def test_auto_says_that_it_needs_the_gpu_here(
    bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without nvidia-smi
    with pytest.raises(InputError, match=r"this machine, which has no GPU 1 \(nvidia-smi lists none\)"):
        choose_topology(bundle, pictures, RenderOptions(gpus=(0, 1)))


def test_the_fused_topology_runs_no_foreign_backend(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose the topology bls, or the backend python"):
        render(bundle, tmp_path / "models", RenderOptions(topology="fused", backend="onnxruntime"))
