"""What is kept of a measurement; one without machine, versions, command and date is not kept."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from dyndet_bench.measuring.machine import describe_machine, describe_versions


class Circumstances(BaseModel):
    """Where, with what, how and when something was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    date: str = Field(description="UTC, ISO 8601")


def circumstances(**versions: str) -> Circumstances:
    """Those of this process, here and now; `versions` names what the installed packages do not."""
    return Circumstances(
        machine=describe_machine(),
        versions=describe_versions() | versions,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
