"""The requests to a server, their order and the meaning of the answers, as generators that yield calls.

`senders.run` makes the calls, `run` for a `Detector`, `run_async` for an `AsyncDetector`; nothing here sends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy.typing as npt
from tritonclient.utils import InferenceServerException

from dyndet_client.address import Address
from dyndet_client.codec import MASKS, Request, ServedModel, encode_question, no_masks, parse_model
from dyndet_client.errors import (
    AccessDeniedError,
    BadRequestError,
    DeadlineExceededError,
    ModelNotReadyError,
    ServerError,
    ServerUnreachableError,
    SharedMemoryError,
)
from dyndet_client.protocol import (
    DIALECTS,
    Call,
    cause_of,
    lacks_output,
    lost_region,
    reason_of,
    status_of,
    survives_cancelling,
    translate,
)
from dyndet_client.results.operating_points import OperatingPoint, parse_operating_points, read_points
from dyndet_client.retrying import Deadline
from dyndet_client.senders.run import Flow
from dyndet_client.settings import TransportChoice
from dyndet_client.shared_memory import Pool, is_leftover, make_pool, remove_leftovers
from dyndet_client.tracing import inference_span

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]

_CLEAN_UP_S = 2.0
NAME_ONE = "name one with model="
"""The end of the error for a model that a server does not have."""
_PART = re.compile(r"(?P<detector>.+?)(?P<slot>_b)?_(?:backbone1|head1|detector1|detector1_own|detector2|encoded)")


def detectors_among(models: Iterable[str]) -> list[str]:
    """The names in order, without models that are parts of a detector which is there, too.

    >>> detectors_among(["street", "street_head1", "street_b_head1", "street_encoded", "other_head1"])
    ['other_head1', 'street']
    """
    known = set(models)

    def is_part(name: str) -> bool:
        found = _PART.fullmatch(name)
        return found is not None and bool(known & {found["detector"], found["detector"] + (found["slot"] or "")})

    return sorted(name for name in known if not is_part(name))


def _nothing() -> None:
    """What is to be done at the end of most calls."""


class Session:
    """The conversation with one model of one server."""

    def __init__(self, address: Address, model: str, transport: TransportChoice = "network") -> None:
        self.address = address
        self.pool: Pool | None = None
        """shared memory from which the server reads images; None: they are sent"""
        self._dialect = DIALECTS[address.protocol]
        self._model = model
        self._choice = transport
        self._may_cancel = False
        self._was_served = False

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def transport(self) -> TransportChoice:
        """How images reach the server now."""
        return "network" if self.pool is None else self.pool.transport

    def connect(self, deadline: Deadline) -> Flow[ServedModel]:
        """Check server and model, and set up shared memory if it is wanted."""
        served = parse_model((yield from self.model_config(deadline)))
        self._was_served = True
        if self.pool is None:
            yield from self._open_pool(served, deadline)
        return served

    def model_config(self, deadline: Deadline) -> Flow[dict[str, Any]]:
        """The model's configuration as JSON. Raises ServerUnreachableError or ModelNotReadyError."""
        yield from self._find_server(deadline)
        try:
            if not (yield self._call("is_model_ready", deadline, model_name=self._model)):
                raise ModelNotReadyError((yield from self._not_ready(deadline)))
            asked = self._call("get_model_config", deadline, model_name=self._model, **self._dialect.json)
            return self._dialect.config((yield asked))
        except InferenceServerException as error:
            raise self._translate(error, deadline) from error

    def _find_server(self, deadline: Deadline) -> Flow[None]:
        """Check that a server answers. Over gRPC its version decides whether calls may be cancelled."""
        try:
            if self.address.protocol == "grpc":
                try:
                    metadata = yield self._call("get_server_metadata", deadline, **self._dialect.json)
                    self._may_cancel = survives_cancelling(str(metadata.get("version", "")))
                    return
                except InferenceServerException as error:
                    if not isinstance(self._translate(error, deadline), AccessDeniedError):
                        raise
            if not (yield self._call("is_server_live", deadline)):
                raise self._nobody("it reports that it is not live")
        except InferenceServerException as error:
            found = self._translate(error, deadline)
            if isinstance(found, AccessDeniedError):
                raise found from error
            if isinstance(found, DeadlineExceededError):
                raise ServerUnreachableError(
                    f"no Triton server answers at {self.address} within {deadline.total_s:g} s; allow more time "
                    f"(timeout), {self._dialect.hint}"
                ) from error
            raise self._nobody(cause_of(error)) from error

    @inference_span
    def infer(self, request: Request, deadline: Deadline) -> Flow[Tensors]:
        """The output tensors for one request. Raises a ServerError."""
        try:
            return (yield from self._infer(request, deadline))
        except InferenceServerException as error:
            if MASKS in request.outputs and lacks_output(error):  # it was replaced since this client connected
                raise no_masks(self._model) from error
            raise self._translate(error, deadline) from error

    def operating_points(self, served: ServedModel, deadline: Deadline) -> Flow[dict[str, OperatingPoint]]:
        """The operating points in force, by name: those of a detector that is one graph are in its configuration.

        Raises a ServerError.
        """
        if served.points is not None:
            now = parse_model((yield from self.model_config(deadline)))
            return read_points(now.points or served.points, self._model)
        request = encode_question(served)
        try:
            return parse_operating_points((yield from self._infer(request, deadline)), self._model)
        except InferenceServerException as error:
            if lacks_output(error):
                raise BadRequestError(
                    f"model {self._model!r} at {self.address} does not give its operating points: it was rendered by "
                    "an earlier version of dyndet; render the repository again"
                ) from error
            raise self._translate(error, deadline) from error

    def _infer(self, request: Request, deadline: Deadline) -> Flow[Tensors]:
        """`infer` with Triton's own errors."""
        for may_register in (True, False):
            use_s = deadline.use_s()
            if use_s is not None and use_s <= 0:
                raise deadline.out_of_use(self.address)
            pool = self.pool
            slot = None if pool is None else pool.put(request.image)
            ended = _nothing if pool is None or slot is None else partial(pool.release, slot)
            arguments = self._dialect.infer_arguments(self._model, request, slot, deadline.left_s(), use_s)
            try:
                answer = yield self._call("infer", deadline, ended=ended, **arguments)
                return self._dialect.tensors(answer, request.outputs)
            except InferenceServerException as error:
                if pool is None or slot is None or not may_register or not lost_region(error):
                    raise
            if not (yield from self._register(pool, deadline)):  # the server was started anew, and may not any more
                if self._choice != "auto":
                    raise SharedMemoryError(f"the server at {self.address} no longer accepts shared memory")
                self.pool = None
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> Flow[None]:
        """Give shared memory back. If the server cannot be reached, the next client on this machine cleans up."""
        pool, self.pool = self.pool, None
        if pool is None:
            return
        try:
            method, arguments = f"unregister_{pool.kind}_shared_memory", {"name": pool.name}
            yield Call(method, arguments, _CLEAN_UP_S, self._may_cancel, is_last=True)
        except InferenceServerException:
            pass
        finally:
            pool.close()

    def _open_pool(self, served: ServedModel, deadline: Deadline) -> Flow[None]:
        if self._choice == "network" or (self._choice == "auto" and not self.address.is_loopback):
            return
        pool: Pool | None = None
        try:
            pool = make_pool(self._choice, math.prod(served.fit.shape))
            yield from self._first_registration(pool, deadline)
        except ServerError:
            if pool is not None:
                pool.close()
            if self._choice != "auto":
                raise
        except BaseException:
            if pool is not None:
                pool.close()
            raise
        else:
            self.pool = pool
            yield from self._remove_leftovers(deadline)

    def _first_registration(self, pool: Pool, deadline: Deadline) -> Flow[None]:
        try:
            yield self._registration(pool, deadline)
        except InferenceServerException as error:
            raise SharedMemoryError(
                f"the server at {self.address} cannot read this client's shared memory ({reason_of(error)}): "
                "it must run on the same machine (in a container: with --ipc=host), and Triton 26.05 or later needs "
                "--allow-client-shm=true; without transport= the client falls back to the network"
            ) from error

    def _register(self, pool: Pool, deadline: Deadline) -> Flow[bool]:
        """Register the region again; True also where another call has just done so."""
        try:
            yield self._registration(pool, deadline)
        except InferenceServerException as error:
            if "already in manager" in str(error.message()):
                return True
            if status_of(error) in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                raise self._translate(error, deadline) from error
            return False
        return True

    def _registration(self, pool: Pool, deadline: Deadline) -> Call:
        return self._call(f"register_{pool.kind}_shared_memory", deadline, name=pool.name, **pool.registration)

    def _remove_leftovers(self, deadline: Deadline) -> Flow[None]:
        """Remove what clients that were killed left behind: files here, registrations on this server."""
        remove_leftovers()
        try:
            status = yield self._call("get_system_shared_memory_status", deadline, **self._dialect.json)
            for name, key in self._dialect.regions(status).items():
                if is_leftover(name, key):
                    yield self._call("unregister_system_shared_memory", deadline, name=name)
        except InferenceServerException:
            return  # tidying up must not fail a detection

    def _nobody(self, cause: str) -> ServerUnreachableError:
        return ServerUnreachableError(f"no Triton server answers at {self.address} ({cause}); {self._dialect.hint}")

    def _not_ready(self, deadline: Deadline) -> Flow[str]:
        sentence = f"model {self._model!r} is not ready on the server at {self.address}"
        try:
            answer = yield self._call("get_model_repository_index", deadline, **self._dialect.json)
        except InferenceServerException:
            return sentence
        models = self._dialect.models(answer)
        for model in models:
            if model["name"] == self._model:
                return f"{sentence}: {model.get('state', '')} {model.get('reason', '')}".rstrip(" :")
        names = detectors_among(model["name"] for model in models if model.get("state") == "READY")
        sentence = (
            f"the server at {self.address} has no model {self._model!r}; it serves {', '.join(names) or 'no model'}"
        )
        return f"{sentence}; {NAME_ONE}" if names else sentence

    def _call(
        self, method: str, deadline: Deadline, *, ended: Callable[[], object] = _nothing, **arguments: Any
    ) -> Call:
        left_s = deadline.left_s()
        if left_s <= 0:
            ended()
            raise deadline.exceeded(self.address)
        return Call(method, arguments, left_s, self._may_cancel, ended)

    def _translate(self, error: InferenceServerException, deadline: Deadline) -> ServerError:
        return translate(error, model=self._model, address=self.address, deadline=deadline, was_served=self._was_served)
