"""How a set of engines is built: what becomes of the weights, for which GPUs, where timings are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import FoldlineError
from ..config import WEIGHTS

AUTO, FIXED, STRIP, STRIP_IDENTICAL = "auto", "fixed", "strip", "strip-identical"
# What becomes of the weights -> the builder's flags. Stripped plans take theirs from one file beside them when they are loaded.
FLAGS: dict[str, tuple[str, ...]] = {
    FIXED: (),
    STRIP: ("REFIT", "STRIP_PLAN"),
    STRIP_IDENTICAL: ("REFIT_IDENTICAL", "STRIP_PLAN"),
}
STRIPPED = (STRIP, STRIP_IDENTICAL)


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    ``mode``: "fixed" (weights inside each plan, for good), "strip" (one file of weights for all plans, exchangeable: a refit replaces it),
    "strip-identical" (one file, only ever these weights: the builder may fold them) or "auto": "strip" where the builder has a GPU, and
    "fixed" where it has none, because the builder's flags for exchange need one. ``compute_capabilities``: GPUs to build for, () = the one
    in this machine, or without one ``backend.TARGETS``. ``portable``: the engine also runs on other GPUs of the same compute capability
    (``tensorrt`` only). ``cache``: folder of kept timings, None = the user's.
    """

    mode: str = AUTO
    compute_capabilities: tuple[str, ...] = ()
    portable: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in WEIGHTS:
            raise FoldlineError(f"weights mode '{self.mode}' is unknown; choose from {', '.join(WEIGHTS)}")


def settle_mode(options: BuildOptions, backend: str, has_gpu: bool) -> str:
    """The mode that "auto" stands for here. Raises FoldlineError for a mode, or a backend, that needs a GPU where there is none."""
    if backend == "tensorrt" and not has_gpu:
        raise FoldlineError(
            "tensorrt builds for the GPU in this machine, and there is none; build with tensorrt_rtx, or on a machine with one"
        )
    if options.mode == AUTO:
        return STRIP if has_gpu else FIXED
    if options.mode != FIXED and not has_gpu:
        raise FoldlineError(
            f"weights mode '{options.mode}': {backend} needs a GPU to build engines whose weights can be exchanged, and PyTorch sees none; "
            "use 'fixed', or build on a machine with one"
        )
    return options.mode
