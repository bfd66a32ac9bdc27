"""Compares a file that routes itself with the bundle's own graphs, bit by bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Float32Array, Progress, UInt8Array
from dynamicdet.errors import ParityError
from dyndet_builder.bundle.manifest import DIFFICULTY, IMAGE
from dyndet_builder.bundle.parts import ROUTE, THRESHOLD
from dyndet_builder.bundle.runner import Array, BundleRunner, Tensors
from dyndet_builder.bundle.sessions import run_session, session_of

_GROUP = 4
"""images that are compared together: one by one, and then as a batch if the file takes batches"""
_NAME = "the file that routes itself"


def check_bits(
    file: Path,
    runner: BundleRunner,
    images: Iterable[UInt8Array] | None,
    *,
    one: bool,
    default: float,
    plain: bool,
    count: int,
    progress: Progress,
) -> int:
    """Compare all outputs of a file on `count` fitted images (H, W, 3), None: noise; returns how many were compared.

    Each image goes both ways, and once with the default threshold. A file for any batch also gets batches in which the
    routes are mixed. `plain` leaves out optimisations of the layout, as in `runner`. Raises ParityError, which names
    the output, if a bit differs.
    """
    session, shape = session_of(file, plain=plain), runner.bundle.fit.shape
    noise = np.random.default_rng(0)
    given = iter(images) if images is not None else (noise.integers(0, 256, shape, np.uint8) for _ in range(count))
    done = 0
    progress("compare with the bundle", 0, count)
    for group in _groups(given):
        batches = [image[None] for image in group]
        for batch in batches:
            for threshold in (0.0, 1.0):
                _compare(runner, batch, _ask(session, batch, np.array([[threshold]], np.float32)), threshold)
            _compare(runner, batch, _ask(session, batch, None), default)
        if not one and len(group) > 1:
            batch = np.concatenate(batches)
            mixed = np.array([[index % 2] for index in range(len(group))], np.float32)
            _compare(runner, batch, _ask(session, batch, mixed), mixed)
        done += len(group)
        progress("compare with the bundle", done, count)
    return done


def expected(runner: BundleRunner, images: Array, threshold: Float32Array | float) -> Tensors:
    """What the bundle's own graphs give for a batch (B, H, W, 3): those of a route run on its images together."""
    first = runner.first(images)
    difficulty = first[DIFFICULTY]
    given = np.broadcast_to(np.float32(threshold), difficulty.shape)
    hard = ~((given > 0) & (difficulty <= given))[:, 0]
    names = [tensor.name for tensor in runner.bundle.answers]
    found: Tensors = {}
    for is_hard in (False, True):
        rows = (hard == is_hard).nonzero()[0]
        if not rows.size:
            continue
        known = {name: values[rows] for name, values in ({**first, IMAGE: images}).items()}
        stage = "detector2" if is_hard else runner.bundle.easy
        answer = known if stage is None else runner.run(stage, known)
        for name in names:
            found.setdefault(name, np.zeros((len(images), *answer[name].shape[1:]), answer[name].dtype))[rows] = answer[
                name
            ]
    return {**found, DIFFICULTY: difficulty, ROUTE: np.where(hard, 2, 1).astype(np.int32)[:, None]}


def _ask(session: object, images: Array, threshold: Float32Array | None) -> Tensors:
    tensors = {IMAGE: images} if threshold is None else {IMAGE: images, THRESHOLD: threshold}
    return run_session(session, tensors, name=_NAME)


def _compare(runner: BundleRunner, images: Array, found: Tensors, threshold: Float32Array | float) -> None:
    for name, values in expected(runner, images, threshold).items():
        same = values.dtype == found[name].dtype and values.shape == found[name].shape
        if not same or values.tobytes() != found[name].tobytes():
            raise ParityError(
                f"{name} of the file that routes itself differs from that of the bundle's graphs on {len(images)} "
                f"image{'s' if len(images) > 1 else ''}, so it was not written; this version of ONNX Runtime computes "
                "them in another order"
            )


def _groups(images: Iterator[UInt8Array]) -> Iterator[list[UInt8Array]]:
    while group := list(itertools.islice(images, _GROUP)):
        yield group
