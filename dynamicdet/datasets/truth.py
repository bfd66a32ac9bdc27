"""The objects of a data set by picture file, for showing them beside what a detector found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import read_files
from dynamicdet.datasets.layout import Split
from dynamicdet.matching import Objects


def read_objects(source: Path | str, *, split: Split = "valid", progress: Progress = silent) -> Mapping[Path, Objects]:
    """The objects of each picture by the resolved path of its file; a picture without objects has empty `Objects`.

    `source` and `split` are those of `layout.locate`. Only the headers of the pictures are read. Raises InputError if
    the data set cannot be used.
    """
    usable = read_files(source, split=split, progress=progress)
    files, table = usable.files, usable.table
    corners = np.concatenate([table.box[:, :2], table.box[:, :2] + table.box[:, 2:]], axis=1)
    order = np.argsort(table.image, kind="stable")
    starts = np.searchsorted(table.image[order], np.arange(1, len(files.paths)))
    return {
        path.resolve(): Objects(
            boxes=corners[rows],
            names=tuple(files.class_names[number] for number in table.category[rows].tolist()),
            crowd=table.crowd[rows],
        )
        for path, rows in zip(files.paths, np.split(order, starts), strict=True)
    }
