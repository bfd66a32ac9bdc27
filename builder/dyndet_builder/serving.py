"""Serves one bundle in every compared way and measures all of them, for `dyndet bench serving`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.cores import usable_cores
from dynamicdet.errors import InputError
from dynamicdet.files import scratch_folder
from dynamicdet.pictures import pictures_in
from dyndet_bench.comparisons.baselines import write_baselines
from dyndet_bench.comparisons.serving import Eager, Mix, ServingRecord, measure_serving
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_builder.bundle.manifest import file_sha256, read_bundle
from dyndet_builder.composing.model import best_routes, composed_model
from dyndet_builder.repository.config import MEASURED_TOPOLOGIES
from dyndet_builder.repository.fingerprint import repository_sha256
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.supervisor import watched
from dyndet_builder.server.triton import TritonServer


@dataclass(frozen=True, kw_only=True)
class ServingComparison:
    """The measurements of every way to serve, and the average precision of each mix of routes, percent."""

    record: ServingRecord
    accuracy: Mapping[Mix, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.record.model_dump(mode="json"), "accuracy": dict(self.accuracy)}


def compare_serving(
    bundle: Path,
    *,
    images: Path,
    data: Path | None = None,
    checkpoint: Path | None = None,
    options: RenderOptions | None = None,
    cache: Path | None = None,
    hard_share: float = 0.3,
    concurrency: int = 8,
    rounds: int = 5,
    max_images: int = 40,
    watchdog: bool = False,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> ServingComparison:
    """Render a bundle in both topologies and as baselines, serve all on the embedded server, and measure.

    Each topology is served twice: for latency, with one instance on all cores, and for throughput, with one instance
    per core and one thread each. `data` is a COCO data set for the average precision, `checkpoint` the network for
    PyTorch; without them, that column or row is missing. `options` are those of the rendering, except instances and
    threads; `cache` is a folder for detections, `journals` for measurements. With `watchdog`, the server is watched as
    by `dyndet serve`, which costs it some requests; it is not restarted. See `measure_serving`.

    Raises InputError, ServerError, MissingExtraError.
    """
    described = read_bundle(bundle)
    pictures_in(images)  # raises its error now, before anything is computed
    options = options or RenderOptions()
    accuracy: dict[Mix, float] = {}
    if data is not None:
        # Needs what training needs: pycocotools.
        from dyndet_builder.evaluation.evaluate import evaluate

        shares: dict[Mix, float] = {"easy": 0.0, "mixed": hard_share, "hard": 1.0}
        found = evaluate(bundle, data=data, hard_shares=tuple(shares.values()), cache=cache, progress=progress)
        accuracy = {mix: point.precision.ap for mix, point in zip(shares, found.evaluation.points, strict=True)}
    if checkpoint is not None and described.architecture is None:
        raise InputError("a pair of detectors has no checkpoint to compare with; leave it out")
    eager = None if checkpoint is None else eager_detector(checkpoint, described.architecture or "")
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("serving"))
        cores = usable_cores()
        detectors = {}
        for topology in MEASURED_TOPOLOGIES:
            for label, instances, threads in ((topology, 1, 0), (f"{topology}, {cores} x 1 thread", cores, 1)):
                name = f"{topology}{instances}"
                own = replace(options, name=name, topology=topology, instances=instances, threads=threads)
                render(bundle, folder / name, own)
                detectors[label] = name
        first, *others = detectors.values()
        rendered = read_rendered(folder / first)
        write_baselines(rendered.stage_configs, folder / "baselines", name=first)
        extra = tuple(f"--model-repository={folder / other}" for other in (*others, "baselines"))
        progress("start the server", 0, 1)
        server = stack.enter_context(TritonServer(folder / first, ServerOptions(extra_arguments=extra)))
        if watchdog:
            stack.enter_context(watched(server))
        progress("start the server", 1, 1)
        if journals is not None:
            journals = journals.about(
                repositories={name: repository_sha256(folder / name) for name in (*detectors.values(), "baselines")},
                checkpoint=None if checkpoint is None else file_sha256(checkpoint),
                watchdog=watchdog,
            )
        record = measure_serving(
            server.grpc_url,
            graphs=rendered.cpu_graphs,
            single_file=_single_file(bundle, folder / "one.onnx"),
            images=images,
            detectors=detectors,
            baselines=first,
            eager=eager,
            hard_share=hard_share,
            concurrency=concurrency,
            rounds=rounds,
            max_images=max_images,
            cores=cores,
            journals=journals,
            progress=progress,
        )
    return ServingComparison(record=record, accuracy=accuracy)


def _single_file(bundle: Path, file: Path) -> Path | None:
    """The bundle as one file for one image at a time; None if its stages do not allow that."""
    described = read_bundle(bundle)
    try:
        model = composed_model(bundle, described, threshold=None, batch="one", routes=best_routes(described))
    except InputError:
        return None
    onnx.save(model, file)
    return file


def eager_detector(checkpoint: Path, architecture: str) -> Eager:
    """The checkpoint in PyTorch, layer by layer, from a letterboxed image and a threshold to suppressed boxes."""
    import torch

    import dynamicdet
    from dynamicdet.networks.two_stage.detector import TwoStageDetector
    from dyndet_builder.bundle.manifest import Nms
    from dyndet_builder.bundle.stages import Backbone1Stage, Detector2Stage, Head1Stage
    from dyndet_builder.bundle.two_stage import RouteStage, settings_of

    network = dynamicdet.load(checkpoint, architecture=architecture).deploy()
    backbone1 = Backbone1Stage(network).eval()
    if isinstance(network, TwoStageDetector):
        settings, _ = settings_of(network, None, "onnxruntime")
        heads: list[torch.nn.Module] = [
            RouteStage(network, "easy", settings).eval(),
            RouteStage(network, "hard", settings).eval(),
        ]
    else:
        heads = [Head1Stage(network, Nms()).eval(), Detector2Stage(network, Nms()).eval()]
    head1, detector2 = heads

    @torch.inference_mode()
    def answer(image: UInt8Array, threshold: float) -> object:
        pixels = torch.from_numpy(image[None])
        difficulty, *features = backbone1(pixels)
        named = dict(zip(backbone1.outputs, features, strict=True))
        if threshold > 0 and difficulty.item() <= threshold:
            return head1(*(named[name] for name in network.head1_reads))
        read = (named[name] for name in network.detector2_reads)
        return detector2(pixels, *read) if network.reads_image else detector2(*read)

    return answer
