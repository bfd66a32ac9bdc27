"""Stands in for a perf_analyzer that loses requests: run as a program, with the real one's arguments.

It sends the requests, one after another; beside that the variable STAND_IN says what happens. `hang N`: the first N
tries wait for ever, without a worker, as the real one does; the others are whole. `lose N`: they fail, as the real one
does. `slow S`: it takes S seconds more before it measures, for a request, and after it has measured. `work`: a request
is never answered. `script`: the real one is started, as newer packages do. `hold B`: the real one is started, and at
the first try it can print only B bytes until its workers have ended.
"""

from __future__ import annotations

import argparse
import base64
import csv
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

_NAP_S = 0.05  # the real one counts its records once a second
_HELD_UP_S = 10.0  # at most: not every kernel says what a thread waits for
_TYPES = {"image": ("UINT8", np.uint8), "threshold": ("FP32", np.float32)}


def main() -> None:
    word, _, number = os.environ["STAND_IN"].partition(" ")
    tries = Path(os.environ["STAND_IN_TRIES"])
    tries.write_text(f"{tries.read_text() if tries.exists() else ''}{os.getpid()}\n")
    real = [os.environ["STAND_IN_REAL"], *sys.argv[1:]]
    if word == "hold" and len(tries.read_text().splitlines()) == 1:
        _hold_up(real, int(number))
        return
    if word in ("hold", "script"):
        subprocess.run(real)
        return
    seconds = float(number) if word == "slow" else 0.0
    _nap(seconds)
    worker = threading.Thread(target=time.sleep, args=(3600.0 if word == "work" else seconds,), daemon=True)
    worker.start()
    _say("Request concurrency: 1")
    while worker.is_alive():
        time.sleep(_NAP_S)
    spoilt = word in ("hang", "lose") and len(tries.read_text().splitlines()) <= int(number)
    _measure(_arguments(), spoilt)
    while spoilt and word == "hang":
        time.sleep(_NAP_S)
    if spoilt:
        sys.exit("failed to find the requested model version\n")
    _say("  Client: ")
    _nap(seconds)


def _hold_up(command: list[str], printed: int) -> None:
    receive, send = os.pipe()
    size = fcntl.fcntl(send, fcntl.F_SETPIPE_SZ, 4096)
    os.write(send, bytes(size - printed))
    with subprocess.Popen(command, stdout=send) as real:
        os.close(send)
        deadline = time.monotonic() + _HELD_UP_S
        while time.monotonic() < deadline and not _waits_to_print(Path(f"/proc/{real.pid}")):
            time.sleep(_NAP_S)
        while got := os.read(receive, size):
            os.write(sys.stdout.fileno(), got.replace(b"\0", b""))


def _waits_to_print(process: Path) -> bool:
    """Whether nothing but the main thread is left beside gRPC's own threads, and it waits for a reader."""
    names = [path.read_text() for path in process.glob("task/*/comm")]
    return names.count((process / "comm").read_text()) == 1 and "pipe_write" in (process / "wchan").read_text()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("-m", "-u", "-f", "--input-data", "--profile-export-file"):
        parser.add_argument(name)
    for name in ("--request-count", "--warmup-request-count"):
        parser.add_argument(name, type=int)
    return parser.parse_known_args()[0]


def _measure(given: argparse.Namespace, spoilt: bool) -> None:
    entries = json.loads(Path(given.input_data).read_text())["data"]
    times = []
    with triton.InferenceServerClient(given.u) as client:
        for counted, count in ((False, given.warmup_request_count), (True, given.request_count)):
            for number in range(count):
                begin = time.time_ns()
                client.infer(given.m, _inputs(entries[number % len(entries)]))
                if counted:
                    times.append((begin, time.time_ns()))
    if spoilt:
        return
    latencies_us = np.array([end - begin for begin, end in times]) / 1e3
    row = {"Avg latency": latencies_us.mean()}
    row |= {f"p{percent} latency": np.quantile(latencies_us, percent / 100) for percent in (50, 90, 95, 99)}
    with Path(given.f).open("w", newline="") as file:
        csv.writer(file).writerows([row.keys(), row.values()])
    if given.profile_export_file:
        sent = [{"timestamp": begin, "response_timestamps": [end]} for begin, end in times]
        Path(given.profile_export_file).write_text(json.dumps({"experiments": [{"requests": sent}]}))


def _inputs(entry: dict[str, Any]) -> list[Any]:
    inputs = []
    for name, value in entry.items():
        kind, dtype = _TYPES[name]
        shape = [1, *value["shape"]]
        inputs.append(triton.InferInput(name, shape, kind))
        inputs[-1].set_data_from_numpy(np.frombuffer(base64.b64decode(value["b64"]), dtype).reshape(shape))
    return inputs


def _nap(seconds: float) -> None:
    for _ in range(round(seconds / _NAP_S)):
        time.sleep(_NAP_S)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
