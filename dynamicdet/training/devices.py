"""The processor, precision and number of processes of a training. Lightning Fabric does the work.

One process uses one device. For several devices, torchrun starts one process for each:
`torchrun --nproc-per-node 4 -m dyndet_builder.cli train detectors ...`. Fabric reads torchrun's environment variables.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from dynamicdet.errors import InputError
from dynamicdet.training.recipe import Accelerator, Precision


def make_fabric(
    *, accelerator: Accelerator = "auto", precision: Precision = "auto", log_folder: Path | None = None
) -> Fabric:
    """A launched Fabric for this process, which runs alone or is one of several that torchrun started.

    `log_folder` receives TensorBoard events. Raises InputError if this machine does not have the accelerator, or the
    accelerator does not support the precision.
    """
    if accelerator not in get_args(Accelerator) or precision not in get_args(Precision):
        raise InputError(
            f"unknown accelerator {accelerator!r} or precision {precision!r}; dyndet accepts the accelerators "
            f"{', '.join(get_args(Accelerator))} and the precisions {', '.join(get_args(Precision))}"
        )
    found = _found() if accelerator == "auto" else accelerator
    if found != "cpu" and not _available(found):
        raise InputError(f"this machine has no {found} device; use --accelerator cpu or auto")
    chosen = best_precision(found) if precision == "auto" else precision
    if chosen == "16-mixed" and found == "cpu":
        raise InputError("a CPU cannot train in 16-mixed; use bf16-mixed or 32-true")
    several = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would name the precision between our lines
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
    """The fastest precision that is known to work for training on this processor."""
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    # If a CPU only emulates bfloat16, it is many times slower than float32.
    known = torch.cpu.get_capabilities() if accelerator == "cpu" else {}
    native = any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    return "bf16-mixed" if native else "32-true"


def _found() -> Literal["cpu", "cuda", "mps"]:
    return "cuda" if _available("cuda") else "mps" if _available("mps") else "cpu"


def _available(accelerator: str) -> bool:
    return torch.cuda.is_available() if accelerator == "cuda" else torch.backends.mps.is_available()
