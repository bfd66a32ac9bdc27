"""Threads that decode pictures. Needs only Python."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from dynamicdet.cores import usable_cores


def picture_pool(*, niceness: int = 0) -> ThreadPoolExecutor:
    """Threads for pictures; requests wait in others, which a request that waits must not take from its pictures.

    Decoding occupies a core and holds large images in memory, so there is one thread per core that this
    process may use, whatever the batch size.
    """

    def yield_cores() -> None:
        if niceness:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + niceness)

    return ThreadPoolExecutor(usable_cores(), "picture", yield_cores)
