"""One attempt of a call to several servers: which it asks one after the other, and what their errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic

from dyndet_client.balancing.replicas import AWAY, Replica, Replicas, S
from dyndet_client.errors import OverloadedError, ServerError
from dyndet_client.retrying import Deadline, Overload
from dyndet_client.settings import Retries


class Turns(Generic[S]):
    """The replica whose turn it is; while it is away the next ones, and once another if it is overloaded.

    ::

        for replica in turns:
            with turns.asking(replica):
                return answer_of(replica)
        raise turns.problem()
    """

    def __init__(self, replicas: Replicas[S], retries: Retries, deadline: Deadline, overload: Overload) -> None:
        self._replicas, self._retries, self._deadline, self._overload = replicas, retries, deadline, overload
        self._tried: list[Replica[S]] = []
        self._away: ServerError | None = None
        self._refused: OverloadedError | None = None

    def __iter__(self) -> Iterator[Replica[S]]:
        """Replicas to ask, at once, until one answers."""
        # one that refused does work, so those that are left out are no better
        while (replica := self._replicas.pick(self._tried, only_up=self._refused is not None)) is not None:
            self._tried.append(replica)
            yield replica

    @contextmanager
    def asking(self, replica: Replica[S]) -> Iterator[None]:
        """While it answers. Errors after which another one is to be asked go no further."""
        try:
            yield
        except AWAY as away:
            self._away = away
            self._replicas.failed(replica, away)
        except OverloadedError as refused:
            self._replicas.answered(replica)
            if not self._may_ask_another():
                raise
            self._refused = refused
        else:
            self._replicas.answered(replica)
        finally:
            self._replicas.done(replica)

    def problem(self) -> ServerError:
        """Why none of them has answered."""
        return self._refused or self._away or self._replicas.nobody()

    def _may_ask_another(self) -> bool:
        """After a refusal; not if the call has been refused before."""
        if self._overload.is_spent or self._refused is not None:
            self._overload.spend()
            return False
        return self._retries.attempts > 1 and self._deadline.left_for_retry_s() > 0
