"""Repositories to deploy, and measurements to deploy them with."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import yaml

from dyndet_builder.operating_points import (
    FILE_NAME,
    Evidence,
    FollowLoad,
    OperatingPoint,
    OperatingPoints,
    Reach,
    RouteLatency,
)
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.templates import TEMPLATES
from tests.support.toy_bundle import write_toy_bundle

KINDS = {
    "cpu": RenderOptions(encoded=True, threads=2),
    "fused": RenderOptions(topology="fused"),
    "plain": RenderOptions(backend="onnxruntime"),
    "gpu": RenderOptions(backend="onnxruntime", gpus=(0, 1)),
    "accelerated": RenderOptions(backend="onnxruntime", accelerator="tensorrt", gpus=(0,)),
    "fused-gpu": RenderOptions(topology="fused", gpus=(0,)),
    "tensorrt": RenderOptions(backend="tensorrt", gpus=(0,)),
}
EASY_SHARE = 0.7
PROBE = TEMPLATES / "deploy" / "probe.py"
"""the program that probes a server"""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""that of libyaml, ten times as fast"""


def render_kinds(folder: Path) -> dict[str, Path]:
    """A repository of each kind."""
    bundle = write_toy_bundle(folder / "bundle")
    return {kind: render_to_serve(bundle, folder / kind, options) for kind, options in KINDS.items()}


def render_to_serve(bundle: Path, folder: Path, options: RenderOptions) -> Path:
    """A repository; if it needs engines, their files are there."""
    repository = render(bundle, folder, options)
    for note in repository.glob("*/1/PUT_MODEL_PLAN_HERE.txt"):
        note.with_name("model.plan").write_bytes(b"an engine, as far as files go")
    return repository


def installed_by(text: str) -> set[str]:
    """The packages that a line of a Dockerfile or of a shell installs with pip."""
    lines = [line.partition("&&")[0] for line in text.splitlines() if "pip install" in line]
    return {word for line in lines for word in line.partition("pip install")[2].split() if not word.startswith("-")}


def documents(folder: Path, name: str) -> list[Any]:
    """The YAML documents of a file."""
    return list(yaml.load_all((folder / name).read_text(), _LOADER))


def pod_of(folder: Path) -> Any:
    """The pod of a deployment."""
    return documents(folder, "kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]


def points(*, statistic: str = "p99", goal: float = 20.0, unit: str = "ms", concurrency: int = 1) -> OperatingPoints:
    """As a calibration leaves them: every easy request takes 8 ms, every hard one 12 ms."""
    target = f"{statistic}:{goal:g}{unit}"
    easy, hard = (
        RouteLatency(mean_ms=ms, p50_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms, throughput_per_s=1e3 / ms, requests=300)
        for ms in (8.0, 12.0)
    )
    return OperatingPoints(
        default=target,
        points={
            target: OperatingPoint(
                threshold=0.4,
                target=target,
                statistic=statistic,
                unit=unit,
                goal=goal,
                reached=goal,
                mean_ms=9.2,
                percentiles_ms={"p50": 8.0, "p90": 12.0, "p95": 12.0, "p99": 12.0},
                easy_share=EASY_SHARE,
            )
        },
        evidence=Evidence(
            easy=easy,
            hard=hard,
            reachable={"mean": Reach(easy=8, hard=12)},
            difficulty_quantiles=(0.0, 1.0),
            calibration_images=100,
            held_out_images=100,
            load=f"concurrency {concurrency}",
            concurrency=concurrency,
            request_rate=None,
            batch=1,
            rounds_replayed=0,
            machine={"cpu": "some", "cores": "2"},
            versions={},
            command="dyndet calibrate",
            date="2026-01-01T00:00:00+00:00",
        ),
    )


def following() -> OperatingPoints:
    """As `points`, with a promise under load of which no other point has the percentile: p97:30ms."""
    measured = points()
    follow = FollowLoad(promise_ms=30, statistic="p97")
    point = measured.points[measured.default].model_copy(update={"follow_load": follow})
    return measured.model_copy(update={"points": {measured.default: point}})


def calibrate(repository: Path, model: str, measured: OperatingPoints) -> Path:
    """Put operating points into a repository."""
    (repository / model / "1" / FILE_NAME).write_text(measured.model_dump_json())
    return repository


def program(name: str) -> str | None:
    """A program on PATH, or beside the interpreter, where builder/install.sh puts some."""
    return shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
