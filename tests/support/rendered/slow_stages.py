"""Makes stages of a rendered repository slow, so that tests know what takes how long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_FUSED = """

def _slow(self, stage, *arguments, _run=Stages._run, **named):
    time.sleep({seconds}.get(stage, 0))
    return _run(self, stage, *arguments, **named)


Stages._run = _slow
"""
_STAGE = """

def _slow(self, requests, _execute=TritonPythonModel.execute):
    import time

    time.sleep({seconds} * len(requests))
    return _execute(self, requests)


TritonPythonModel.execute = _slow
"""


def slow_down(repository: Path, seconds: Mapping[str, float], *, name: str = "toy") -> None:
    """Let each call of a stage take so much longer."""
    fused = repository / name / "1" / "stages.py"
    if fused.exists():
        with fused.open("a") as code:
            code.write(_FUSED.format(seconds=dict(seconds)))
        return
    for stage, more in seconds.items():
        with (repository / f"{name}_{stage}" / "1" / "model.py").open("a") as code:
            code.write(_STAGE.format(seconds=more))
