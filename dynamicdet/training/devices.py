"""Where training runs and how it computes: processor, precision, number of processes. Lightning Fabric does the work.

One process uses one device. For several, start as many processes with torchrun; Fabric finds the others by what
torchrun tells it: `torchrun --nproc-per-node 4 -m dyndet_builder.cli train detectors ...`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from dynamicdet.errors import InputError

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]


def make_fabric(
    *, accelerator: Accelerator = "auto", precision: Precision = "auto", log_folder: Path | None = None
) -> Fabric:
    """A launched Fabric for this process, alone or as one of those that torchrun started.

    `log_folder` receives TensorBoard events. Raises InputError for an accelerator that is not here, or a precision
    that it cannot compute in.
    """
    if accelerator not in get_args(Accelerator) or precision not in get_args(Precision):
        raise InputError(
            f"accelerator {accelerator!r} with precision {precision!r} is not known; accepted are "
            f"{', '.join(get_args(Accelerator))} and {', '.join(get_args(Precision))}"
        )
    found = _found() if accelerator == "auto" else accelerator
    if found != "cpu" and not _available(found):
        raise InputError(f"there is no {found} device on this machine; use --accelerator cpu or auto")
    chosen = best_precision(found) if precision == "auto" else precision
    if chosen == "16-mixed" and found == "cpu":
        raise InputError("a CPU does not train in 16-mixed; use bf16-mixed or 32-true")
    several = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    loggers: list[Logger] = []
    if log_folder is not None:
        loggers.append(TensorBoardLogger(log_folder.parent, name=log_folder.name, version=""))
    fabric = Fabric(
        accelerator=found,
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")) if several else 1,
        strategy="ddp" if several else "auto",
        precision=chosen,
        loggers=loggers,
    )
    fabric.launch()
    return fabric


def best_precision(accelerator: str) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """The fastest precision that training is known to bear on this processor."""
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    # Where a CPU only emulates bfloat16, it is many times slower than float32.
    known = torch.cpu.get_capabilities() if accelerator == "cpu" else {}
    native = any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    return "bf16-mixed" if native else "32-true"


def _found() -> Literal["cpu", "cuda", "mps"]:
    return "cuda" if _available("cuda") else "mps" if _available("mps") else "cpu"


def _available(accelerator: str) -> bool:
    return torch.cuda.is_available() if accelerator == "cuda" else torch.backends.mps.is_available()
