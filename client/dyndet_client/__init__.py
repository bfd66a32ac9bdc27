"""Client of a served dynamic detector: pictures in, boxes, classes, difficulty and route out.

Imports neither torch nor onnx.
"""

from dyndet_client.detections import Detections, Route
from dyndet_client.detector import Detector
from dyndet_client.errors import (
    BadRequestError,
    DeadlineExceededError,
    DyndetError,
    InputError,
    ModelNotReadyError,
    NotADetectorError,
    ServerError,
    ServerUnreachableError,
)

__all__ = [
    "BadRequestError",
    "DeadlineExceededError",
    "Detections",
    "Detector",
    "DyndetError",
    "InputError",
    "ModelNotReadyError",
    "NotADetectorError",
    "Route",
    "ServerError",
    "ServerUnreachableError",
]
