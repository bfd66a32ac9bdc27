"""The paper's table of trade-offs beside our values: GFLOPs, the latency model, and, with a GPU, the speed."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import DyndetError
from dyndet_bench.measuring.attempts import Attempts, Missing
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.sweep.paper import FITTED_ROWS, PAPER, PaperModel, PaperRow, RouteTimes, fit_routes

if TYPE_CHECKING:
    from dynamicdet.networks.network import DynamicDetector, Route


_WARM_UP, _ROUNDS, _IMAGES_PER_ROUND = 50, 20, 20
SOURCE = "DynamicDet (CVPR 2023), FPS on one V100, fp16, batch 1"


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One row of the paper, and our values for it."""

    paper: PaperRow
    fitted: bool
    """the latency model was fitted to the FPS of this row, so it returns the same value"""
    gflops: float
    predicted_fps: float
    """from the latency model, which was fitted to two rows"""
    measured_fps: float | None
    """on this machine's GPU; None without a GPU"""


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One network of the paper."""

    paper: PaperModel
    fitted: RouteTimes
    measured: RouteTimes | None
    rows: tuple[ComparedRow, ...]


@dataclass(frozen=True, kw_only=True)
class PaperComparison:
    """Result of `compare_with_paper`."""

    models: tuple[ComparedModel, ...]
    gpu: str | None
    """name of the measured GPU"""
    circumstances: Circumstances
    missing: tuple[Missing, ...] = ()
    """networks that could not be measured on the GPU, and why"""
    replayed: Replayed | None = None
    """measurements of earlier runs of the same command"""

    def as_json(self) -> dict[str, Any]:
        """What `dyndet bench paper --json` prints."""
        return {
            "source": SOURCE,
            "gpu": self.gpu,
            "fitted_hard_percent": list(FITTED_ROWS),
            "models": [_model_json(model) for model in self.models],
            "missing": [asdict(one) for one in self.missing],
            "replayed": None if self.replayed is None else asdict(self.replayed),
            "circumstances": asdict(self.circumstances),
        }


def compare_with_paper(
    *, gpu: bool = True, journals: JournalFolder | None = None, progress: Progress = silent
) -> PaperComparison:
    """Compute GFLOPs of the paper's networks, predict their FPS, and measure it if torch finds a GPU.

    The weights are random, because no result depends on them. With `gpu=False`, the GPU is not used. With `journals`,
    the measurement of each network is stored, and those of an earlier run are used. One that fails twice is in the
    result's `missing`.
    """
    import torch

    device = torch.device("cuda") if gpu and torch.cuda.is_available() else None
    name = None if device is None else str(torch.cuda.get_device_name(device))
    identity = {"bench": "paper", "gpu": name, "cuda": torch.version.cuda}
    attempts = Attempts(None if journals is None or device is None else journals.open(identity, RouteTimes))
    models = []
    for number, model in enumerate(PAPER):
        progress("compare networks", number, len(PAPER))
        measured = None
        if device is not None:
            timed = functools.partial(_measure, model, device)
            entry = attempts.measure(model.architecture, timed, what=model.name)
            measured = None if entry is None else entry.measured
        models.append(_compare(model, measured))
    progress("compare networks", len(PAPER), len(PAPER))
    return PaperComparison(
        models=tuple(models),
        gpu=name,
        circumstances=circumstances(),
        missing=tuple(attempts.missing),
        replayed=attempts.replayed,
    )


def _measure(model: PaperModel, device: Any) -> RouteTimes:
    try:
        return measure_routes(model.architecture, device)
    except RuntimeError as error:  # torch's errors, such as a GPU without enough memory
        text = str(error).strip().partition("\n")[0]
        raise DyndetError(f"{type(error).__name__}: {text}") from error


def _compare(model: PaperModel, measured: RouteTimes | None) -> ComparedModel:
    from dynamicdet.networks.info import info

    costs = info(model.architecture)
    fitted = fit_routes(model)
    rows = tuple(
        ComparedRow(
            paper=row,
            fitted=row.hard_percent in FITTED_ROWS,
            gflops=costs.gflops_at(row.hard_share),
            predicted_fps=fitted.fps(row.hard_share),
            measured_fps=None if measured is None else measured.fps(row.hard_share),
        )
        for row in model.rows
    )
    return ComparedModel(paper=model, fitted=fitted, measured=measured, rows=rows)


def measure_routes(architecture: str, device: Any) -> RouteTimes:
    """Time both routes of a network with random weights on a CUDA device, in half precision, one image at a time.

    The time is from the image on the GPU to decoded boxes, without suppression. Both routes run in every round; the
    result is the median of the rounds' means.
    """
    import torch

    from dynamicdet import create
    from dynamicdet.networks.network import DynamicDetector

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # sizes never change
    try:
        with torch.inference_mode():
            model = create(architecture).eval().deploy().to(device, torch.float16)
            assert isinstance(model, DynamicDetector)  # the paper's tables are of YOLO networks
            image = torch.rand(1, 3, model.input_size, model.input_size, device=device, dtype=torch.float16)
            for route in ("easy", "hard"):
                _time_ms(model, image, route, _WARM_UP)
            rounds = [
                [_time_ms(model, image, route, _IMAGES_PER_ROUND) for route in ("easy", "hard")] for _ in range(_ROUNDS)
            ]
    finally:
        torch.backends.cudnn.benchmark = before
    easy, hard = np.median(np.array(rounds), axis=0)
    return RouteTimes(lat1_ms=float(easy), lat2_ms=float(hard))


def _time_ms(model: DynamicDetector, image: Any, route: Route, count: int) -> float:
    """Mean time of one image, by the GPU's own clock."""
    import torch

    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    for _ in range(count):
        infer_once(model, image, route)
    end.record()
    torch.cuda.synchronize(image.device)
    return float(start.elapsed_time(end)) / count


def infer_once(model: DynamicDetector, image: Any, route: Route) -> Any:
    """Run one image through one route. Like a server, it reads the difficulty first, which waits for the GPU."""
    features = model.features(image)
    float(model.route(features))
    return model.decode(model.head1(features) if route == "easy" else model.detector2(image, features))


def _model_json(model: ComparedModel) -> dict[str, Any]:
    return {
        "model": model.paper.name,
        "architecture": model.paper.architecture,
        "input_size": model.paper.input_size,
        "fitted": {"lat1_ms": model.fitted.lat1_ms, "lat2_ms": model.fitted.lat2_ms},
        "measured": model.measured and {"lat1_ms": model.measured.lat1_ms, "lat2_ms": model.measured.lat2_ms},
        "rows": [
            {
                "hard_percent": row.paper.hard_percent,
                "paper": {"gflops": row.paper.gflops, "fps": row.paper.fps, "ap": row.paper.ap},
                "gflops": row.gflops,
                "predicted_fps": row.predicted_fps,
                "fitted": row.fitted,
                "measured_fps": row.measured_fps,
            }
            for row in model.rows
        ],
    }
