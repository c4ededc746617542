"""Recorded passes: the second pass of equal sizes and addresses is captured as a CUDA graph, later ones are replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

PLAIN, CAPTURE, REPLAY = "plain", "capture", "replay"
log = logging.getLogger(__name__)


class Recording:
    """Which way the next pass is made. ``key``: everything that a recorded pass depends on."""

    def __init__(self) -> None:
        self._warm: object = None
        self._recorded: object = None
        self._refused = False

    def choose(self, key: object) -> str:
        """Plain for the first pass of a key (engines set up then), capture for the second, replay while the key stays."""
        if self._refused or key != self._warm:
            self._warm, self._recorded = key, None
            return PLAIN
        if key != self._recorded:
            return CAPTURE
        return REPLAY

    def captured(self, key: object) -> None:
        """The pass of ``key`` was recorded."""
        self._recorded = key

    def refuse(self) -> None:
        """Nothing can be recorded: all passes are plain from now on."""
        self._refused, self._recorded = True, None


class GraphLauncher:
    """Makes the passes of one bucket, recorded where that can be."""

    def __init__(self, name: str) -> None:
        self.refused = ""  # why nothing is recorded; "" while it is
        self._name, self._recording = name, Recording()
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, key: object, enqueue: Callable[[], None], why_not: Callable[[], str]) -> None:
        """One pass on the current stream. ``why_not``: the reason why it cannot be captured on this stream, "" when it can."""
        way = self._recording.choose(key)
        if way == PLAIN:
            self._graph = None
        if way == CAPTURE:
            self._capture(key, enqueue, why_not())
        if self._graph is not None and self._recording.choose(key) == REPLAY:
            self._graph.replay()
        else:
            enqueue()

    def _capture(self, key: object, enqueue: Callable[[], None], reason: str) -> None:
        """Record ``enqueue``; it is not run by that."""
        if not reason:
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    enqueue()
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
            else:
                self._graph = graph
                self._recording.captured(key)
                return
        self.refused = reason
        self._recording.refuse()
        log.warning("%s: passes are not recorded as CUDA graphs: %s", self._name, reason)
