"""Several servers of one detector: whose turn it is, and who is left out. Nothing here sends.

Requests go to the replicas in turn. One that cannot be reached is left out, and is asked again after a time that
doubles with each failure. The request that found it out goes to the next replica at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from dynamicdet.text import printable
from dyndet_client.address import Address
from dyndet_client.codec import ServedModel
from dyndet_client.errors import ModelNotReadyError, ServerError, ServerUnreachableError
from dyndet_client.retrying import Deadline
from dyndet_client.session import Session
from dyndet_client.settings import Balancing, Connection

AWAY = (ServerUnreachableError, ModelNotReadyError)
"""Errors of one replica after which another may answer."""

_log = logging.getLogger("dyndet_client")


class _Sender(Protocol):
    @property
    def is_full(self) -> bool: ...


S = TypeVar("S", bound=_Sender)


@dataclass(eq=False)
class Replica(Generic[S]):
    """One server."""

    session: Session
    sender: S
    served: ServedModel | None = None
    """what it serves; None while this is not known"""
    is_up: bool = False
    failures: int = 0
    """in a row"""
    retry_at: float = 0.0
    """when it is asked again, on the monotonic clock"""
    in_flight: int = 0
    problem: ServerError | None = None
    """why it is left out"""
    was_told: bool = False
    """whether the log says that it is left out"""


class Replicas(Generic[S]):
    """The servers of one detector. Threads share it."""

    def __init__(
        self, connection: Connection, make: Callable[[Connection], Replica[S]], balancing: Balancing | None = None
    ) -> None:
        self.balancing = balancing or Balancing()
        self.address = connection.address
        self.title = ", ".join(map(str, connection.addresses))
        self._connection, self._make = connection, make
        self._lock = threading.RLock()
        self._turn = 0
        self._leaving: list[Replica[S]] = []
        self._contract: tuple[Address, ServedModel] | None = None
        self._closed = False
        fixed = () if connection.is_dns else connection.addresses
        self._known = {address: make(replace(connection, addresses=(address,))) for address in fixed}
        self.only = next(iter(self._known.values())) if len(self._known) == 1 else None
        """the server, if there is only one: then nothing is chosen, left out or looked up"""

    def left_out(self) -> list[Replica[S]]:
        """Those that get no requests, or only if there is no other."""
        with self._lock:
            return [each for each in self._known.values() if not each.is_up]

    def due(self) -> list[Replica[S]]:
        """Those that are left out and whose pause is over."""
        now = time.monotonic()
        return [each for each in self.left_out() if each.retry_at <= now]

    def limit(self, deadline: Deadline) -> Deadline:
        """The time for one of several to answer, so that one that hangs does not use up all of it."""
        return Deadline(min(deadline.left_s(), self.balancing.answer_s))

    def pick(self, tried: Iterable[Replica[S]], *, only_up: bool = False) -> Replica[S] | None:
        """The next one that was not tried. It counts as busy until `done`.

        Those that are left out are picked only when there is no other, because all may have been away for a moment;
        with `only_up`, never.
        """
        excluded = set(tried)
        with self._lock:
            served = [each for each in self._known.values() if each.served is not None and each not in excluded]
            up = [each for each in served if each.is_up]
            choice = [each for each in up if not each.sender.is_full] or up or ([] if only_up else served)
            if not choice:
                return None
            self._turn += 1
            picked = choice[self._turn % len(choice)]
            picked.in_flight += 1
            return picked

    def done(self, replica: Replica[S]) -> None:
        """The request that it was picked for has ended."""
        with self._lock:
            replica.in_flight -= 1

    def failed(self, replica: Replica[S], error: ServerError) -> None:
        """Leave it out for a time."""
        balancing = self.balancing
        with self._lock:
            wait_s = min(balancing.first_pause_s * 2 ** min(replica.failures, 30), balancing.longest_pause_s)
            replica.retry_at = time.monotonic() + wait_s
            replica.is_up, replica.failures, replica.problem = False, replica.failures + 1, error
        self._tell()

    def answered(self, replica: Replica[S]) -> None:
        """Give it its turns, if it has been left out."""
        if not replica.is_up:
            with self._lock:
                replica.is_up, replica.failures, replica.problem, replica.was_told = True, 0, None, False

    def joined(self, replica: Replica[S], served: ServedModel) -> None:
        """Its model is known. Raises ServerError for another detector than that of the others."""
        with self._lock:
            address, contract = self._contract or (replica.session.address, served)
            difference = _difference(contract, served)
            if difference is None:
                self._contract, replica.served = (address, contract), served
                self.answered(replica)
            else:
                replica.served, replica.was_told = None, True
        if difference is None:
            self._tell()
            return
        error = ServerError(
            f"{address} and {replica.session.address} serve different detectors ({difference}): "
            "give the addresses of replicas of one detector"
        )
        if not replica.failures:
            _log.warning("%s; %s gets no requests", printable(error), replica.session.address)
        raise error

    def _tell(self) -> None:
        """Log those that are left out, each once, while others answer; if none does, the call has an error."""
        with self._lock:
            missing = [each for each in self.left_out() if each.problem is not None and not each.was_told]
            if not any(each.is_up for each in self._known.values()):
                return
            for each in missing:
                each.was_told = True
        for each in missing:
            _log.warning("%s is left out until it answers: %s", each.session.address, printable(each.problem))

    def contract(self) -> ServedModel:
        """What the replicas serve. Raises the error of `nobody` if none is there."""
        with self._lock:
            if self._contract is None or not any(each.is_up for each in self._known.values()):
                raise self.nobody()
            return self._contract[1]

    def renew(self, addresses: Iterable[Address]) -> None:
        """Take the addresses that a name has now: new ones are due, others leave when their requests have ended."""
        wanted = tuple(addresses)
        with self._lock:
            if self._closed or not wanted:  # a look-up that fails says nothing about the servers
                return
            for address in set(self._known) - set(wanted):
                self._leaving.append(self._known.pop(address))
            for address in wanted:
                if address not in self._known:
                    self._known[address] = self._make(replace(self._connection, addresses=(address,)))

    def gone(self) -> list[Replica[S]]:
        """Those that have left, each once: their connection can be closed."""
        with self._lock:
            gone = [each for each in self._leaving if not each.in_flight]
            self._leaving = [each for each in self._leaving if each.in_flight]
            return gone

    def close(self) -> list[Replica[S]]:
        """Take no further ones; everyone whose connection is still open."""
        with self._lock:
            self._closed = True
            return [*self._known.values(), *self._leaving]

    def nobody(self) -> ServerError:
        """The error when there is no replica to send to."""
        problems = [each.problem for each in self.left_out() if each.problem is not None]
        if not problems:
            return ServerUnreachableError(f"{self.title} has no address now: check the name, or start a server there")
        if len(problems) == 1:
            return problems[0]
        telling = max(problems, key=lambda problem: isinstance(problem, ModelNotReadyError))
        return type(telling)(f"none of {len(problems)} replicas takes requests; one of them: {telling}")


def _difference(left: ServedModel, right: ServedModel) -> str | None:
    if left.fit != right.fit:
        return f"inputs of {left.fit} and of {right.fit}"
    if left.class_names != right.class_names:
        return f"{len(left.class_names)} and {len(right.class_names)} class names that are not the same"
    return None
