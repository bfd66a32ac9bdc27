"""Shared memory on the client's side: slots, bounds, and what a killed client leaves behind."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dyndet_client.shared_memory import FOLDER, SLOTS, SystemPool, is_leftover, remove_leftovers
from tests.support.programs.processes import started

BYTES = 5000


def test_slots_hold_pictures_and_are_used_again() -> None:
    pool = SystemPool(BYTES)
    path = FOLDER / pool.name
    pictures = [np.full(BYTES, number, np.uint8) for number in range(SLOTS)]
    slots = [pool.put(picture) for picture in pictures]
    assert all(slots) and pool.put(pictures[0]) is None  # none is left: this one would go over the network
    content = path.read_bytes()
    for slot, picture in zip(slots, pictures, strict=True):
        assert content[slot.offset : slot.offset + slot.byte_size] == picture.tobytes()
    pool.release(slots[3])
    assert pool.put(pictures[0]).offset == slots[3].offset
    assert path.stat().st_mode & 0o777 == 0o600  # other users of the machine cannot read the pictures
    pool.close()
    pool.close()
    assert not path.exists()


def test_memory_is_taken_for_slots_that_are_used() -> None:
    pool = SystemPool(1_000_000)
    pool.release(pool.put(np.zeros(1_000_000, np.uint8)))
    assert (FOLDER / pool.name).stat().st_blocks * 512 < 2_000_000
    pool.close()


def test_a_forgotten_pool_tidies_up() -> None:
    pool = SystemPool(BYTES)
    path = FOLDER / pool.name
    del pool
    gc.collect()
    assert not path.exists()


def test_what_a_killed_client_left_is_removed_and_what_lives_is_not() -> None:
    code = (
        "import sys; from dyndet_client.shared_memory import SystemPool; pool = SystemPool(5000);"
        "print(pool.name, flush=True); sys.stdin.read()"
    )
    with started([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        name = client.stdout.readline().decode().strip()
        remove_leftovers()
        assert (FOLDER / name).exists() and not is_leftover(name, f"/{name}")
        client.send_signal(signal.SIGKILL)
        client.wait()
    assert (FOLDER / name).exists() and is_leftover(name, f"/{name}")
    assert not (FOLDER / name).exists()
    assert not is_leftover("someone-elses", "/someone-elses") and not is_leftover(name, "/other")


def test_a_forked_process_leaves_its_parents_memory_alone() -> None:
    pool = SystemPool(BYTES)
    child = os.fork()
    if child == 0:
        pool.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert Path(FOLDER / pool.name).exists()
    pool.close()


@pytest.fixture(autouse=True)
def _leaves_nothing():
    yield
    assert not list(FOLDER.glob(f"dyndet-client-{os.getpid()}-*"))
