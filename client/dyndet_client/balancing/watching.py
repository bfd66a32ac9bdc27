"""Brings replicas in: at first, when they come back, and when a name stands for new ones. Both kinds of detector."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from dyndet_client.address import resolve
from dyndet_client.balancing.replicas import AWAY, Replica, Replicas
from dyndet_client.codec import ServedModel
from dyndet_client.errors import DeadlineExceededError, ServerError
from dyndet_client.retrying import Deadline
from dyndet_client.senders.run import AsyncSender, Sender, run, run_async

_NO_ANSWER = (*AWAY, DeadlineExceededError)


def join_all(replicas: Replicas[Sender], deadline: Deadline) -> ServedModel:
    """Connect to all that are left out; what they serve. One that answers is enough.

    Raises the ServerError of the last one if none answers, and any error that is not about reaching a server.
    """
    if replicas.address.is_dns:
        replicas.renew(resolve(replicas.address))
    for replica in replicas.left_out():
        try:
            served = run(replica.session.connect(replicas.limit(deadline)), replica.sender)
        except _NO_ANSWER as error:
            replicas.failed(replica, error)
        else:
            replicas.joined(replica, served)
    return replicas.contract()


async def join_all_async(replicas: Replicas[AsyncSender], deadline: Deadline) -> ServedModel:
    """`join_all` for an event loop."""
    if replicas.address.is_dns:
        replicas.renew(await asyncio.to_thread(resolve, replicas.address))
    for replica in replicas.left_out():
        try:
            served = await run_async(replica.session.connect(replicas.limit(deadline)), replica.sender)
        except _NO_ANSWER as error:
            replicas.failed(replica, error)
        else:
            replicas.joined(replica, served)
    return replicas.contract()


def watch(replicas: Replicas[Sender], stop: threading.Event) -> None:
    """Until `stop`: ask those that are left out whether they are back, look the name up, close what has left."""
    balancing = replicas.balancing
    looked_up = time.monotonic()
    while not stop.wait(balancing.first_pause_s):
        if replicas.address.is_dns and time.monotonic() >= looked_up + balancing.look_up_s:
            replicas.renew(resolve(replicas.address))
            looked_up = time.monotonic()
        for replica in replicas.due():
            try:
                replicas.joined(replica, run(replica.session.connect(Deadline(balancing.answer_s)), replica.sender))
            except ServerError as error:
                replicas.failed(replica, error)
        for replica in replicas.gone():
            replica.sender.close(replica.session.close())


async def watch_async(replicas: Replicas[AsyncSender], is_wanted: Callable[[], bool]) -> None:
    """`watch` for an event loop; ends when it is cancelled or not wanted any more."""
    balancing = replicas.balancing
    looked_up = time.monotonic()
    while is_wanted():
        await asyncio.sleep(balancing.first_pause_s)
        if replicas.address.is_dns and time.monotonic() >= looked_up + balancing.look_up_s:
            replicas.renew(await asyncio.to_thread(resolve, replicas.address))
            looked_up = time.monotonic()
        for replica in replicas.due():
            try:
                flow = replica.session.connect(Deadline(balancing.answer_s))
                replicas.joined(replica, await run_async(flow, replica.sender))
            except ServerError as error:
                replicas.failed(replica, error)
        for gone in replicas.gone():
            await close_async(gone)


async def close_async(replica: Replica[AsyncSender]) -> None:
    """End a replica's connection."""
    await replica.sender.close(replica.session.close())
