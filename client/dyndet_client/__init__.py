"""Client of a served dynamic detector: images in, boxes, classes, difficulty and route out.

It imports neither torch nor onnx.
"""

from dyndet_client.async_detector import AsyncDetector
from dyndet_client.detections import Detection, Detections, Route
from dyndet_client.detector import Detector
from dyndet_client.errors import (
    AccessDeniedError,
    BadRequestError,
    DeadlineExceededError,
    DyndetError,
    InputError,
    MissingExtraError,
    ModelNotReadyError,
    NoMasksError,
    NotADetectorError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    SharedMemoryError,
    UnknownOperatingPointError,
)
from dyndet_client.results.masks import Masks
from dyndet_client.results.operating_points import OperatingPoint
from dyndet_client.settings import AbandonedCalls, KeepAlive, Retries, Tls, TransportChoice

__all__ = [
    "AbandonedCalls",
    "AccessDeniedError",
    "AsyncDetector",
    "BadRequestError",
    "DeadlineExceededError",
    "Detection",
    "Detections",
    "Detector",
    "DyndetError",
    "InputError",
    "KeepAlive",
    "Masks",
    "MissingExtraError",
    "ModelNotReadyError",
    "NoMasksError",
    "NotADetectorError",
    "OperatingPoint",
    "OverloadedError",
    "Retries",
    "Route",
    "ServerError",
    "ServerUnreachableError",
    "SharedMemoryError",
    "Tls",
    "TransportChoice",
    "UnknownOperatingPointError",
]
