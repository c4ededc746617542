"""Chains by number, and a process that reads a store while others append to it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from foldline.data_store.store import Store
from foldline.data_store.types import ChainRecord
from foldline.tests.data_store.store_cases import assert_same, random_record


def record(number: int) -> ChainRecord:
    """The same chain for the same number, wherever it is made."""
    return random_record(np.random.default_rng(number), f"c{number}", 5 + number % 9, (1 + number % 3,), number % 2, number % 3 == 0)


def keep_reading(path: Path, stop: Event, pipe: Connection) -> None:
    """Open and read over and over; send the numbers of chains met, or what went wrong."""
    seen: list[int] = []
    try:
        Store.open(path).record("c0")
        pipe.send("ready")
        while not stop.is_set():
            store = Store.open(path)
            count = len(store.chain_ids)
            assert_same(store.record(f"c{count - 1}"), record(count - 1))
            seen.append(count)
        pipe.send(seen)
    except Exception as error:
        pipe.send(repr(error))
