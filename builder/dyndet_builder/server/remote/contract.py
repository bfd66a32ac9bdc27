"""What clients of a detector depend on: its input, its class names and its masks. A client reads them on connecting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dyndet_client.codec import ServedModel, parse_model
from dyndet_client.errors import NotADetectorError


def contract_of(config: pb.ModelConfig | Mapping[str, Any]) -> ServedModel | None:
    """The contract in a configuration, as Triton's message or as JSON; None if it is not that of a dyndet detector."""
    if isinstance(config, pb.ModelConfig):
        config = json_format.MessageToDict(config, preserving_proto_field_name=True)
    try:
        return parse_model(config)
    except (NotADetectorError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None  # also a configuration that others wrote, and that lacks what Triton asks for


def check_contract(detector: str, *, live: ServedModel | None, new: ServedModel | None) -> None:
    """Raise InputError if clients of the build `live` could not use `new`; what is unknown (None) is not compared."""
    if live is None or new is None:
        return
    if live.fit != new.fit:
        difference = f"takes images of {new.fit}, and the one in use takes {live.fit}"
    elif live.class_names != new.class_names:
        difference = "has other class names than the one in use: " + _difference(live.class_names, new.class_names)
    elif live.has_masks and not new.has_masks:
        difference = "gives no masks, and the one in use gives them"
    else:
        return
    raise InputError(
        f"this build of {detector!r} {difference}; connected clients would fail or name objects wrongly, so give the "
        "build another --name, or give --change-contract to `dyndet deploy push` or `rollback`"
    )


def _difference(live: tuple[str, ...], new: tuple[str, ...]) -> str:
    if len(live) != len(new):
        return f"{len(new)} instead of {len(live)}"
    number = next(number for number, names in enumerate(zip(live, new, strict=True)) if names[0] != names[1])
    return f"class {number} is {new[number]!r} instead of {live[number]!r}"
