"""Turns images into requests and responses into detections; no input or output happens here.

Every transport and every kind of detector sends the same `Request` and passes the same tensors to `decode`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.images import ImageSource, read_image
from dynamicdet.letterbox import Fit, Letterboxed
from dynamicdet.text import printable
from dyndet_client.checks import seconds, shown
from dyndet_client.detections import Detections, Route
from dyndet_client.errors import NoMasksError, NotADetectorError, ServerError
from dyndet_client.results.masks import Masks, mask_values
from dyndet_client.results.showing import Picture

Tensors = Mapping[str, npt.NDArray[Any]]

OUTPUTS = ("num_detections", "boxes", "scores", "classes", "difficulty", "route")
MASKS = "masks"
OUTPUTS_WITH_MASKS = (*OUTPUTS, MASKS)
OPERATING_POINT = "dyndet_operating_point"
DEADLINE, PRIORITY, TENANT = "dyndet_deadline_ms", "dyndet_priority", "dyndet_tenant"
OPERATING_POINTS = "operating_points"
"""the output with all operating points, for requests that want nothing else"""
_CLASS_NAMES, _INPUT_SIZE, _FIT = "dyndet_class_names", "dyndet_input_size", "dyndet_fit"
_EASY, _HARD, _DEGRADED = 1, 2, -3
_HIGHEST_PRIORITY = 9
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LEAST_SIDE = 0.01
"""pixels; `Detections.to_dict` rounds to it"""
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a request to a served detector and its answer depend on."""

    name: str
    fit: Fit
    """how images become its input"""
    class_names: tuple[str, ...]
    has_masks: bool = False
    """whether it gives a mask of each object to those who ask for it"""

    @property
    def input_size(self) -> int:
        """The longer side of the input, pixels."""
        return max(self.fit.height, self.fit.width)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of one call. Raises InputError for values that the server would refuse."""

    threshold: float | None = None
    """images with a larger difficulty take the hard route; None: the threshold of the operating point"""
    operating_point: str | None = None
    """a name from the server's `operating_points.json`; None: its default"""
    min_score: float = 0.25
    """objects below this score are dropped"""
    request_id: str = ""
    """shown in the server's logs and traces"""
    deadline: float | None = None
    """seconds after sending for which the answer is of use; None: as the server's operating point promises"""
    priority: int = 0
    """0 to 9; requests with a higher one are taken up first"""
    tenant: str | None = None
    """for whom the request is, where the server divides its time between tenants"""
    masks: bool = False
    """whether to ask for a mask of each object"""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            _check_share("threshold", self.threshold)
            if self.operating_point is not None:
                raise InputError("threshold and operating_point exclude each other: an operating point is a threshold")
        named = self.operating_point
        if named is not None and not (isinstance(named, str) and named and named.isprintable()):
            raise InputError(f"operating_point must be a name of printable characters, not {shown(named)}")
        _check_share("min_score", self.min_score)
        if not isinstance(self.request_id, str) or not self.request_id.isprintable():
            raise InputError(f"request_id must be printable text, not {shown(self.request_id)}")
        if not isinstance(self.masks, bool):
            raise InputError(f"masks must be True or False, not {shown(self.masks)}")
        if self.deadline is not None:
            seconds("deadline", self.deadline)
        number = isinstance(self.priority, int) and not isinstance(self.priority, bool)
        if not number or not 0 <= self.priority <= _HIGHEST_PRIORITY:
            raise InputError(
                f"priority must be a whole number from 0 to {_HIGHEST_PRIORITY}, not {shown(self.priority)}"
            )
        if self.tenant is not None and not (isinstance(self.tenant, str) and _TENANT.fullmatch(self.tenant)):
            raise InputError(
                f"tenant must be a name of 1 to 64 letters, digits, '-', '_' and '.' of ASCII, not {shown(self.tenant)}"
            )

    @property
    def parameters(self) -> dict[str, str | int]:
        """Of the request; the server's defaults are left out. How long the answer is of use changes as time passes."""
        found: dict[str, str | int] = {}
        if self.operating_point is not None:
            found[OPERATING_POINT] = self.operating_point
        if self.priority:
            found[PRIORITY] = self.priority
        if self.tenant is not None:
            found[TENANT] = self.tenant
        return found


@dataclass(frozen=True, kw_only=True)
class Request:
    """One image, ready to send, with the data that maps its answer back."""

    tensors: Tensors
    """inputs with their batch dimension"""
    parameters: Mapping[str, str | int]
    letterboxed: Letterboxed
    min_score: float
    request_id: str = ""
    picture: Picture | None = None
    """where the image may be found again, for notebooks"""
    outputs: tuple[str, ...] = OUTPUTS
    """what is to be sent back"""

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """The image in the detector's input, (H, W, 3)."""
        return self.letterboxed.image


def parse_model(config: Mapping[str, Any]) -> ServedModel:
    """Read a detector's contract from its model configuration, as Triton gives it in JSON.

    Raises NotADetectorError, which names the first part of a dyndet detector that this model lacks.
    """
    try:
        return _parse(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # over HTTP, it can be any JSON
        reason = f"{type(error).__name__}: {error}"
        raise NotADetectorError(f"the server's configuration of the model is damaged: {reason}") from error


def _parse(config: Mapping[str, Any]) -> ServedModel:
    name = str(config.get("name", ""))
    inputs = {tensor["name"]: tensor for tensor in config.get("input", ())}
    outputs = {tensor["name"] for tensor in config.get("output", ())}
    parameters = config.get("parameters", {})
    lacking = [f"input {key}" for key in ("image",) if key not in inputs]
    lacking += [f"output {key}" for key in OUTPUTS if key not in outputs]
    rule = _FIT if _FIT in parameters else _INPUT_SIZE
    lacking += [f"parameter {key}" for key in (_CLASS_NAMES, rule) if key not in parameters]
    if lacking:
        raise NotADetectorError(f"model {name!r} is not a dyndet detector: it has no {lacking[0]}")
    try:
        stated = parameters[rule]["string_value"]
        fit = Fit.of_json(stated) if rule == _FIT else Fit.square(int(stated))
        class_names = json.loads(parameters[_CLASS_NAMES]["string_value"])
    except (KeyError, TypeError, ValueError) as error:  # a rule that this client does not know is an InputError
        raise NotADetectorError(f"model {name!r} has damaged dyndet parameters: {error}") from error
    if not isinstance(class_names, list) or not all(isinstance(entry, str) for entry in class_names):
        raise NotADetectorError(f"model {name!r} has a {_CLASS_NAMES} parameter that is not a list of names")
    found = (inputs["image"].get("data_type"), [int(side) for side in inputs["image"].get("dims", ())])
    if found != ("TYPE_UINT8", list(fit.shape)) or int(config.get("max_batch_size", 0)) < 1:
        raise NotADetectorError(
            f"model {name!r} takes images as {found[0]} {found[1]} with max_batch_size "
            f"{config.get('max_batch_size', 0)}; a dyndet detector takes TYPE_UINT8 {list(fit.shape)} with at least 1"
        )
    return ServedModel(name=name, fit=fit, class_names=tuple(class_names), has_masks=MASKS in outputs)


def encode(model: ServedModel, image: ImageSource, options: Options) -> Request:
    """Read an image and fit it into a request.

    Raises InputError if the image cannot be read, and NoMasksError if the model does not give the masks that are asked
    for.
    """
    if options.masks and not model.has_masks:
        raise no_masks(model.name)
    letterboxed = _fit(read_image(image), model.fit)
    tensors: dict[str, npt.NDArray[Any]] = {"image": letterboxed.image[None]}  # (1, H, W, 3)
    if options.threshold is not None:
        tensors["threshold"] = np.array([[options.threshold]], np.float32)  # (1, 1)
    return Request(
        tensors=tensors,
        parameters=options.parameters,
        letterboxed=letterboxed,
        min_score=options.min_score,
        request_id=options.request_id,
        picture=Picture.of(image),
        outputs=OUTPUTS_WITH_MASKS if options.masks else OUTPUTS,
    )


def no_masks(model: str) -> NoMasksError:
    """The error for a detector that was asked for masks and has none."""
    return NoMasksError(
        f"model {printable(model)!r} gives boxes but no masks: ask without masks, or serve a detector that has them, "
        "such as dy-mask-rcnn-swin-t"
    )


def encode_question(model: ServedModel) -> Request:
    """A request for the operating points. The server wants an image in every request, so it gets an empty one."""
    return replace(encode(model, np.zeros(model.fit.shape, np.uint8), Options()), outputs=(OPERATING_POINTS,))


def is_ready_made(model: ServedModel, image: ImageSource) -> bool:
    """Whether encoding this image takes only microseconds, because nothing is decoded or resized."""
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == model.fit.shape


def decode(model: ServedModel, request: Request, response: Tensors) -> Detections:
    """Turn the server's output tensors into detections in pixels of the original image, best first.

    Boxes without area in the image, such as those in the padding, and boxes that are not finite are left out.
    Raises ServerError if the tensors break the detectors' contract.
    """
    try:
        count = int(response["num_detections"].item())
        boxes = response["boxes"].reshape(-1, 4)
        scores = response["scores"].reshape(-1)
        classes = response["classes"].reshape(-1)
        values = mask_values(response[MASKS], rows=len(boxes)) if MASKS in request.outputs else None
        difficulty, route = float(response["difficulty"].item()), int(response["route"].item())
    except (KeyError, ValueError) as error:
        raise ServerError(f"model {model.name!r} returned a malformed answer: {error}") from error
    if not 0 <= count <= min(len(boxes), len(scores), len(classes)):
        raise ServerError(f"model {model.name!r} returned {count} detections in {len(boxes)} rows")
    kept = (scores[:count] >= request.min_score).nonzero()[0]
    if len(kept) > 1:
        kept = kept[(-scores[kept]).argsort(kind="stable")]
    numbers = classes[kept].tolist()
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(model.class_names):
        raise ServerError(
            f"model {model.name!r} returned a class number beyond its {len(model.class_names)} class names"
        )
    boxed = request.letterboxed
    corners = boxed.to_original(boxes[kept]) if numbers else _NO_BOXES.copy()
    if numbers and not (visible := has_area(corners)).all():
        corners, kept = corners[visible], kept[visible]
        numbers = classes[kept].tolist()
    try:
        found = Detections(
            boxes=corners,
            scores=scores[kept],
            classes=classes[kept],
            names=tuple(model.class_names[number] for number in numbers),
            difficulty=difficulty,
            route=_route(route),
            image_size=(boxed.original_width, boxed.original_height),
            masks=None if values is None else Masks.of(values[kept], boxes[kept], boxed),
        )
        return found if request.picture is None else found.remembering(request.picture)
    except InputError as error:
        raise ServerError(f"model {model.name!r} returned a malformed answer: {error}") from error


def has_area(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which boxes x1 y1 x2 y2 (N, 4) are finite and at least a hundredth of a pixel wide and high; (N,)."""
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    found: npt.NDArray[np.bool_] = np.isfinite(boxes).all(axis=1) & (sides >= _LEAST_SIDE).all(axis=1)
    return found


def _fit(pixels: UInt8Array, fit: Fit) -> Letterboxed:
    """The fitted image; one that already fills the input is not copied, because every rule leaves it as it is."""
    if pixels.shape != fit.shape:
        return fit(pixels)
    return replace(fit.place_of(fit.width, fit.height), image=pixels)


def _route(value: int) -> Route:
    if value < 0:
        return "degraded" if value == _DEGRADED else "fallback"
    if value == _EASY:
        return "easy"
    if value == _HARD:
        return "hard"
    raise InputError(f"route must be 1, 2 or negative, not {value}")


def _check_share(name: str, value: float) -> None:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise InputError(f"{name} must be a finite number from 0 to 1, not {shown(value)}")
