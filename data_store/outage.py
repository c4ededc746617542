"""A store that cannot be reached for a while: whoever reads it waits and tries again, for as long as the run has patience."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import UNAVAILABLE, FoldlineError
from .places import place_of
from .schema import MANIFEST

T = TypeVar("T")

WAITING = "waiting for the store"  # what is said begins with it
_log = logging.getLogger(__name__)
_FIRST, _LONGEST = 0.5, 8.0  # seconds between attempts, doubled each time
_jitter = random.Random()  # of its own seed: hundreds of workers must not come back at once


class StoreUnreachableError(FoldlineError):
    """The store was away for longer than the run has patience; nothing is wrong with what was read before."""

    exit_code = UNAVAILABLE


@dataclass(frozen=True)
class StorePatience:
    """How many ``seconds`` to wait for a store that is away, 0 = not at all; ``say`` hears when a wait begins and ends."""

    seconds: float = 0.0
    say: Callable[[str], None] = _log.warning


def patiently(path: Path | str, patience: StorePatience, read: Callable[[], T]) -> T:
    """What ``read`` returns. Where it fails while the store at ``path`` is away it is tried again, in the end a StoreUnreachableError;
    what fails twice although the store is there is raised as it is.
    """
    began, pause, again = 0.0, _FIRST, False
    while True:
        try:
            found = read()
        except Exception as error:
            away = "" if not patience.seconds else "no answer in time" if isinstance(error, TimeoutError) else unreachable(path)
            if not away and (again or not patience.seconds):
                raise
            again = not away  # it may have come back since the attempt
        else:
            if began:
                patience.say(f"{path} is there again after {time.monotonic() - began:.0f} s")
            return found
        if away:
            began = _wait(path, patience, away, began, pause)
            pause = min(2 * pause, _LONGEST)


def unreachable(path: Path | str) -> str:
    """Why not even the manifest of the store at ``path`` can be read, in one line; "" where it can."""
    try:
        place_of(path).read(MANIFEST)
    except Exception as error:  # each kind of place has its own
        return (str(error).splitlines() or [type(error).__name__])[0][:300]
    return ""


def _wait(path: Path | str, patience: StorePatience, away: str, began: float, pause: float) -> float:
    """Sleep before the next attempt; when the wait began. StoreUnreachableError once it has taken too long."""
    now = time.monotonic()
    if not began:
        began = now
        patience.say(f"{WAITING}: {path} cannot be read ({away}); trying again for {patience.seconds:g} s")
    left = began + patience.seconds - now
    if left <= 0:
        raise StoreUnreachableError(
            f"{path} could not be read for data.store_patience = {patience.seconds:g} s ({away}); nothing else was read in its place; "
            "once it is there again, or with a copy of it as data.store, go on with --resume"
        )
    time.sleep(min(left, pause * _jitter.uniform(0.75, 1.25)))
    return began
