"""What `Detector` and `AsyncDetector` have in common: everything but waiting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.text import printable
from dyndet_client.checks import optional, seconds, shown
from dyndet_client.codec import Options, ServedModel, no_masks
from dyndet_client.retrying import Deadline
from dyndet_client.session import Session
from dyndet_client.settings import AbandonedCalls, Connection, KeepAlive, Retries, Tls, TransportChoice, check_transport


class BaseDetector:
    """Settings and state of a detector; `Detector` describes the arguments."""

    def __init__(
        self,
        url: str | Sequence[str],
        model: str = "dyndet",
        *,
        timeout: float = 30.0,
        transport: TransportChoice = "auto",
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        retries: Retries | None = None,
        keep_alive: KeepAlive | None = None,
        abandoned_calls: AbandonedCalls | None = None,
        deadline: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
        masks: bool = False,
    ) -> None:
        if not isinstance(model, str) or not model or not model.isprintable():
            raise InputError(f"model must be a name of printable characters, not {shown(model)}")
        optional("retries", retries, Retries)
        self._timeout = seconds("timeout", timeout)
        self._connection = Connection.make(
            url, tls=tls, headers=headers, token=token, keep_alive=keep_alive, abandoned_calls=abandoned_calls
        )
        self._retries = retries or Retries()
        self._defaults = Options(deadline=deadline, priority=priority, tenant=tenant, masks=masks)
        self._model = model
        self._choice = self._checked(check_transport(transport))
        self._served: ServedModel | None = None
        self._closed = False
        self._process = os.getpid()
        self._start()

    def _checked(self, choice: TransportChoice) -> TransportChoice:
        """Without shared memory where there are replicas: the next request goes to another server."""
        if len(self._connection.addresses) == 1 and not self._connection.is_dns:
            return choice
        if choice not in ("auto", "network"):
            raise InputError(
                f"transport {choice!r} needs one server on this machine: give one address, or leave it out"
            )
        return "network"

    def _start(self) -> None:
        raise NotImplementedError

    def _only_session(self) -> Session | None:
        """The conversation with the server, if there is only one."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes, in the order of class numbers."""
        return self._known().class_names

    @property
    def input_size(self) -> int:
        """The longer side in pixels of the input into which images are fitted; see `fit`."""
        return self._known().input_size

    @property
    def fit(self) -> Fit:
        """How images become the model's input: its height and width, and whether they are padded or stretched."""
        return self._known().fit

    @property
    def has_masks(self) -> bool:
        """Whether the model gives a mask of each object to calls with `masks=True`."""
        return self._known().has_masks

    @property
    def transport(self) -> TransportChoice:
        """How images reach the server: `network`, `shared-memory` or `cuda-shared-memory`."""
        self._known()
        session = self._only_session()
        return "network" if session is None else session.transport

    def __repr__(self) -> str:
        shown = [str(address) for address in self._connection.addresses]
        state = "closed" if self._closed else "not connected" if self._served is None else "connected"
        url = ", ".join(f"dns:///{one}" if self._connection.is_dns else one for one in shown)
        return f"<{type(self).__name__} {printable(self._model)!r} at {url}, {state}>"

    def _known(self) -> ServedModel:
        if self._served is None:
            raise InputError("the detector is not connected yet; call connect() first, or use `with`")
        return self._served

    def _accepted(self, served: ServedModel) -> ServedModel:
        """The model that answers. Raises NoMasksError if every call would ask it for masks that it has not."""
        if self._defaults.masks and not served.has_masks:
            raise no_masks(served.name)
        return served

    def _deadline(self, timeout: float | None = None) -> Deadline:
        return Deadline(self._timeout if timeout is None else seconds("timeout", timeout))

    def _options(
        self, *, deadline: float | None, priority: int | None, tenant: str | None, masks: bool | None, **others: Any
    ) -> Options:
        """Of one call; what it leaves out is the detector's own."""
        defaults = self._defaults
        return Options(
            deadline=defaults.deadline if deadline is None else deadline,
            priority=defaults.priority if priority is None else priority,
            tenant=defaults.tenant if tenant is None else tenant,
            masks=defaults.masks if masks is None else masks,
            **others,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this detector is closed; create a new one")
        if self._process != os.getpid():  # its threads and its connection stayed behind
            raise InputError("this detector belongs to the process that this one was forked from; create one here")
