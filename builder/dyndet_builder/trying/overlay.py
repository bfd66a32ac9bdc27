"""The masks of an answer as a transparent picture that lies over the one on the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dynamicdet.masks import parts
from dyndet_client.detections import Detections
from dyndet_client.drawing import class_colour

_SIDE = 800
"""most pixels of the longer side"""
_OPACITY = 110
"""of 255"""


def masks(found: Detections, rows: Sequence[int]) -> str:
    """An element with the masks of the objects in these rows, the first on top; empty if there are none."""
    if found.masks is None or not rows:
        return ""
    factor = min(1.0, _SIDE / max(found.image_size))
    width, height = (max(1, round(factor * side)) for side in found.image_size)
    layer = np.zeros((height, width, 4), np.uint8)
    last_first = list(reversed(rows))
    values, boxes = found.masks.values[last_first], factor * found.masks.boxes[last_first]
    for row, (left, top, mask) in zip(last_first, parts(values, boxes, width, height), strict=True):
        place = layer[top : top + mask.shape[0], left : left + mask.shape[1]]
        place[mask] = (*class_colour(int(found.classes[row])), _OPACITY)
    file = io.BytesIO()
    Image.fromarray(layer).save(file, "PNG", compress_level=3)
    return f'<img class="masks" alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
