"""New weights for a built engine, without building it again: its plans hold none, they take them from one file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from .identity import identity_of
from .options import STRIP
from .weights import replace_weights


def refit(folder: Path, facts: Mapping[str, Any], weights: Path, out: Path, weights_sha256: str) -> dict[str, Any]:
    """Write the engine in ``folder`` with the parameters of the safetensors file ``weights`` into ``out``; returns its facts.

    Needs no GPU. What comes out must pass the gate before it folds: builders had defects in what a refit updates. Raises FoldlineError for
    an engine whose weights are fixed, and for weights that do not fit.
    """
    if facts["mode"] != STRIP:
        raise FoldlineError(
            f"engine {folder} was built with weights mode '{facts['mode']}', so that its weights cannot be exchanged; "
            f"build it with mode '{STRIP}' on a machine with a GPU, or build it again with the new weights"
        )
    out.mkdir(parents=True, exist_ok=True)
    replace_weights(folder, weights, out)
    for plans in facts["plans"].values():
        for plan in plans.values():
            shutil.copyfile(folder / plan["file"], out / plan["file"])
    new = dict(facts) | {"weights": weights_sha256}
    return new | {"identity": identity_of(new)}
