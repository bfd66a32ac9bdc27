"""Collects the evidence that only a GPU can give: `dyndet verify` for the demo model and the published sizes.

Needs the standard library and an installed dyndet, no network. Each step has a limit, and the whole has one; what did
not fit is listed. Run it as benchmarks/gpu/README.md says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "benchmarks" / "demo" / "dy-yolov7-pico-cutpaste.safetensors"
IMAGES = ROOT / "benchmarks" / "demo" / "val" / "images"
NETWORKS = ("dy-yolov7", "dy-yolov7-x", "dy-yolov7-w6")
SUMMARY = "summary.md"


class Prover:
    """Runs steps one after the other until the time is up, and writes down what each did."""

    def __init__(self, output: Path, *, seconds: float, gpu: int | None) -> None:
        self.output = output
        self.gpu = gpu
        self.end = time.monotonic() + seconds
        self.lines: list[str] = []
        (output / "logs").mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def run(self, name: str, words: list[str], *, least_s: float = 5.0, most_s: float = 600.0) -> bool:
        """Run a command with its output in a log. False if it failed, took too long, or had no time left."""
        limit = min(most_s, self.left())
        if limit < least_s:
            return self.note(name, "skipped: the time is up")
        started = time.monotonic()
        with (self.output / "logs" / f"{name}.txt").open("w") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            try:
                answer = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, timeout=limit, check=False)
            except subprocess.TimeoutExpired:
                return self.note(name, f"ended after {limit:.0f} s, which was its limit")
        seconds = time.monotonic() - started
        if answer.returncode == 0:
            self.note(name, f"done in {seconds:.0f} s")
            return True
        return self.note(name, f"exit status {answer.returncode} after {seconds:.0f} s; see logs/{name}.txt")

    def note(self, name: str, text: str) -> bool:
        """Write down the end of a step that did not succeed."""
        self.lines.append(f"| {name} | {text} |")
        print(f"{name}: {text}", flush=True)
        return False


def dyndet(*words: object) -> list[str]:
    """The command `dyndet` of this Python."""
    return [sys.executable, "-m", "dyndet_builder.cli", *map(str, words)]


def export(prover: Prover, name: str, checkpoint: Path, bundle: Path, *, precision: str, pictures: int) -> bool:
    """Export a checkpoint with its parity checked on a few pictures."""
    words = dyndet("export", checkpoint, "-o", bundle, "--precision", precision, "--parity-images", pictures)
    return prover.run(f"export-{name}", [*words, "--route-images", str(pictures)], most_s=240)


def verify(prover: Prover, name: str, bundle: Path, *, served: bool, images: int) -> None:
    """Report on a bundle; with engines of TensorRT if they can be built here."""
    gpu = [] if prover.gpu is None else ["--gpu", str(prover.gpu)]
    engines = prover.output / "engines" / name
    if gpu and can_import("tensorrt"):
        build = dyndet("engines", bundle, "-o", engines, "--max-batch", 8)
        prover.run(f"engines-{name}", build, least_s=30, most_s=150)
    words = dyndet("verify", bundle, "-o", prover.output / name, "--images", IMAGES, "--max-images", images)
    words += ["--batches", "1,2,4,8", *gpu, *([] if served else ["--no-serve"])]
    if gpu:
        words += ["--without", "TensorRT"]  # ONNX Runtime's provider builds its engines anew in each process
    if (engines / "engines.json").is_file():
        words += ["--engines", str(engines)]
    prover.run(f"verify-{name}", words, least_s=20, most_s=200)


def promise(prover: Prover) -> None:
    """An absolute target half way between the routes, on the served demo model; it must be kept within 3 %."""
    record = prover.output / "demo" / "verify.json"
    routes = [] if not record.is_file() else json.loads(record.read_text())["served"]
    known = [one for one in routes if one["topology"] == "fused" and one["easy_ms"] and one["hard_ms"]]
    if not known:
        prover.note("promise", "skipped: no server could be started, so there is no latency to promise")
        return
    target = (known[0]["easy_ms"] + known[0]["hard_ms"]) / 2
    words = dyndet("build", "--target-latency", f"{target:.2f}ms", "-o", prover.output / "build")
    words += [] if prover.gpu is None else ["--gpu", str(prover.gpu)]
    if prover.run("promise", words, least_s=60, most_s=240):
        shutil.copyfile(prover.output / "logs" / "promise.txt", prover.output / "promise.txt")


def can_import(module: str) -> bool:
    """Whether this Python has a module."""
    answer = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False)
    return answer.returncode == 0


def random_checkpoint(prover: Prover, name: str) -> Path | None:
    """A checkpoint of a published size with random weights: its times are those of trained ones."""
    path = prover.output / "checkpoints" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    code = (
        f"import dynamicdet, torch; torch.manual_seed(0); dynamicdet.save(dynamicdet.create({name!r}), {str(path)!r})"
    )
    return path if prover.run(f"weights-{name}", [sys.executable, "-c", code], most_s=60) else None


def write_summary(prover: Prover, seconds: float) -> None:
    """One page that names all reports and what each step did."""
    reports = sorted(path.parent.name for path in prover.output.glob("*/verify.md"))
    lines = ["# Evidence from this machine", ""]
    lines += [f"- [{name}]({name}/verify.md)" for name in reports]
    if (prover.output / "logs" / "paper.txt").is_file():
        lines.append("- [the paper's table beside ours](logs/paper.txt)")
    lines += ["", "| step | result |", "| --- | --- |", *prover.lines, "", f"{seconds:.0f} s in all.", ""]
    (prover.output / SUMMARY).write_text("\n".join(lines))


def main() -> int:
    """Run all steps; the exit status is 0 if the demo model has a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the reports, created if it is missing")
    parser.add_argument("--gpu", type=int, default=0, help="the GPU to use; -1: none, for a try on a CPU")
    parser.add_argument("--seconds", type=float, default=470, help="limit of the whole run")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), help="published sizes to run")
    given = parser.parse_args()
    started = time.monotonic()
    try:
        prover = Prover(given.output.resolve(), seconds=given.seconds, gpu=None if given.gpu < 0 else given.gpu)
    except OSError as error:
        parser.error(f"{given.output} cannot be an output folder: {error.strerror}")
    os.chdir(ROOT)
    prover.run("doctor", dyndet("doctor"))
    bundles = prover.output / "bundles"
    precision = "fp16" if prover.gpu is not None else "fp32"
    if export(prover, "demo", DEMO, bundles / "demo", precision=precision, pictures=36):
        verify(prover, "demo", bundles / "demo", served=True, images=36)
        promise(prover)
    prover.run("paper", dyndet("bench", "paper", *(() if prover.gpu is not None else ("--no-gpu",))), most_s=120)
    for name in given.networks:
        checkpoint = random_checkpoint(prover, name)
        if checkpoint is None or not export(prover, name, checkpoint, bundles / name, precision=precision, pictures=1):
            continue
        verify(prover, name, bundles / name, served=True, images=4)
    write_summary(prover, time.monotonic() - started)
    print(f"Wrote {prover.output / SUMMARY}.")
    return 0 if (prover.output / "demo" / "verify.json").is_file() else 1


if __name__ == "__main__":
    sys.exit(main())
