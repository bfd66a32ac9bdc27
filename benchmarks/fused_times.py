"""Shows where the time of a served request goes: client, gRPC, Triton, Python and graphs, one request at a time.

    python benchmarks/fused_times.py build/demo/bundle

A fused repository of the bundle is served by the embedded server. Times come from three places with the same clock:
this client, Triton's trace, and lines that are added to the rendered model. Between the requests, ONNX Runtime runs the
same pictures in a loop with one pool of threads, for comparison. If a detector has masks, their graph counts as part of
the answer that Python makes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import DyndetError, InputError
from dynamicdet.files import scratch_folder
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.comparisons.systems import own_process, pooled_loop
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD
from dyndet_bench.measuring.workload import read_letterboxed
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.demo_assets import demo_images
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer

NOTED = """

import time

_NOTES = []


def _noted(owner, name, label):
    plain = getattr(owner, name)

    def noted(*arguments, **named):
        started = time.monotonic_ns()
        try:
            return plain(*arguments, **named)
        finally:
            _NOTES.append((label or arguments[1], started, time.monotonic_ns()))

    setattr(owner, name, noted)


_noted(TritonPythonModel, "execute", "execute")
_noted(TritonPythonModel, "answer", "answer")
_noted(Stages, "_run_session", None)
_plain_finalize = TritonPythonModel.finalize


def _finalize(self):
    Path(FILE).write_text(json.dumps(_NOTES))
    _plain_finalize(self)


TritonPythonModel.finalize = _finalize
"""
"""added to the rendered model: notes when its parts begin and end, and writes that when the model is unloaded"""

STEPS = (
    "client: makes the request",
    "client to Triton: gRPC on both sides",
    "Triton: its queue",
    "Triton to Python: picture into shared memory, message",
    "Python: reads the request",
    "Python: before the first graph",
    "graph of detector 1 and router",
    "Python: decides the route",
    "graph of the route",
    "Python: makes the answer",
    "Python to Triton: message, answer out of shared memory",
    "Triton to client: gRPC on both sides",
    "whole",
)

_PICTURES = 20

Ask = tuple[int, int, int]
"""when the client began to make a request, sent it, and had the answer, ns"""


def main() -> None:
    """Print the median time of every step for both routes, milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, default=None, help="folder of pictures  [default: the demo's]")
    parser.add_argument("--requests", type=int, default=400, help="per route  [default: 400]")
    given = parser.parse_args()
    if given.requests < _PICTURES:
        raise InputError(f"--requests must be at least {_PICTURES}, the number of pictures, got {given.requests}")
    bundle = read_bundle(given.bundle)
    if "head1" not in bundle.stages:
        raise InputError(f"{given.bundle} is the bundle of a pair; give one of a detector with two routes")
    pictures = read_letterboxed(spread(pictures_in(given.images or demo_images()), _PICTURES), bundle.fit)
    with scratch_folder("times") as folder:
        render(given.bundle, folder / "models", RenderOptions(name="served", topology="fused"))
        model, notes, trace = folder / "models" / "served" / "1" / "model.py", folder / "notes", folder / "trace"
        model.write_text(model.read_text() + NOTED.replace("FILE", repr(str(notes))))
        tracing = ("mode=triton", f"triton,file={trace}", "rate=1", "level=TIMESTAMPS", "count=-1")
        options = ServerOptions(stop_timeout_s=20, extra_arguments=tuple(f"--trace-config={one}" for one in tracing))
        graphs: dict[str, Path] = {stage: given.bundle / f"{stage}.onnx" for stage in bundle.stages}
        with own_process(graphs, pictures) as pool, TritonServer(folder / "models", options) as server:
            asks: dict[float, list[Ask]] = {ALL_EASY: [], ALL_HARD: []}
            loops: dict[float, list[float]] = {ALL_EASY: [], ALL_HARD: []}
            with triton.InferenceServerClient(server.grpc_url) as client:
                for _ in range(given.requests // len(pictures)):
                    for threshold in asks:
                        loops[threshold].append(pool.submit(pooled_loop, threshold).result().p50_ms)
                        asks[threshold] += [_ask(client, picture, threshold) for picture in pictures]
        found = {threshold: _steps(these, notes, trace) for threshold, these in asks.items()}
    print(f"{'':56} {'easy':>7} {'hard':>7}  ms")  # noqa: T201
    for row, step in enumerate(STEPS):
        easy, hard = (statistics.median(times[row] for times in found[threshold]) for threshold in found)
        print(f"{step:56} {easy:7.2f} {hard:7.2f}")  # noqa: T201
    easy, hard = (statistics.median(loops[threshold]) for threshold in found)
    print(f"{'ONNX Runtime alone, one pool':56} {easy:7.2f} {hard:7.2f}")  # noqa: T201


def _ask(client: triton.InferenceServerClient, picture: UInt8Array, threshold: float) -> Ask:
    began = time.monotonic_ns()
    inputs = [triton.InferInput("image", [1, *picture.shape], "UINT8"), triton.InferInput("threshold", [1, 1], "FP32")]
    inputs[0].set_data_from_numpy(picture[None])
    inputs[1].set_data_from_numpy(np.array([[threshold]], np.float32))
    sent = time.monotonic_ns()
    client.infer("served", inputs)
    return began, sent, time.monotonic_ns()


def _steps(asks: Sequence[Ask], notes: Path, trace: Path) -> list[list[float]]:
    """The time of each of `STEPS` of the requests, in milliseconds; the first ones have warmed up and are left out."""
    noted = json.loads(notes.read_bytes())
    requests = sorted(_traced(trace), key=lambda one: one["REQUEST_START"])
    found = []
    for began, sent, ended in asks[len(asks) // 10 :]:
        own = {name: (start, end) for name, start, end in noted if sent <= start <= ended}
        request = next(one for one in requests if sent <= one["REQUEST_START"] <= ended)
        first, first_end = own["backbone1"]
        last, last_end = own["detector2" if "detector2" in own else "head1"]
        answer, answered = own["answer"]
        arrived = own["execute"][0]
        out = request["INFER_RESPONSE_COMPLETE"]
        python = (arrived, answer, first, first_end, last, last_end, answered)
        points = (began, sent, request["QUEUE_START"], request["COMPUTE_START"], *python, out, ended)
        found.append([(b - a) / 1e6 for a, b in itertools.pairwise(points)] + [(ended - began) / 1e6])
    return found


def _traced(trace: Path) -> list[Mapping[str, int]]:
    """Triton's time stamps of each request, ns."""
    requests: dict[int, dict[str, int]] = {}
    for event in json.loads(trace.read_text()):
        for stamp in event.get("timestamps", ()):
            requests.setdefault(event["id"], {})[stamp["name"]] = stamp["ns"]
    return [one for one in requests.values() if "REQUEST_START" in one]


if __name__ == "__main__":
    try:
        main()
    except DyndetError as error:
        sys.exit(f"Error: {error}")
