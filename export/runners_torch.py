"""Engines that are PyTorch itself: eager, or with the blocks of its stacks compiled on first use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from .core import Core
from .engine_store import Built, Engine
from .kinds import Order, Precisions, Say, common, cuda_device, cuda_missing, package_versions
from .runners import TorchRunner

PRECISIONS = ("fp32", "bf16")


class TorchKind:
    """``torch``: eager; ``torch-compile``: compiled block by block, so that the 48 blocks of a stack cost one compilation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.precisions: Precisions = {"cuda": PRECISIONS, "cpu": PRECISIONS}

    def why_not(self, device: str) -> str | None:
        """See ``Kind.why_not``."""
        return cuda_missing(self.name) if device == "cuda" else None

    def why_not_build(self, device: str) -> str | None:
        """See ``Kind.why_not_build``."""
        return self.why_not(device)

    def build(self, core: Core, order: Order, folder: Path, say: Say) -> Built:
        """The weights of the core are all there is: the folder stays empty."""
        return Built(self._depends(core, order.precision, order.device), {})

    def depends(self, core: Core, engine: Engine) -> Mapping[str, Any]:
        """See ``Kind.depends``."""
        return self._depends(core, engine.precision, engine.device)

    def open(self, core: Core, engine: Engine) -> TorchRunner:
        """See ``Kind.open``."""
        return TorchRunner(core.network(), engine.device, engine.precision, compiled=self.name == "torch-compile")

    def why_not_refit(self, engine: Engine) -> str | None:
        """They always can."""
        return None

    def refit(self, core: Core, old: Engine, folder: Path) -> Built:
        """See ``Kind.refit``."""
        return Built(self._depends(core, old.precision, old.device), {})

    def _depends(self, core: Core, precision: str, device: str) -> dict[str, Any]:
        machine = cuda_device() if device == "cuda" else "any"
        versions = package_versions("torch") | {"foldline": __version__}
        return common(core, self.name, precision, device) | {"machine": machine, "versions": versions}
