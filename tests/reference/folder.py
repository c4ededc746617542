"""Where DeepMind's stored numbers are: ``FOLDLINE_REFERENCE``, else ``../shared/reference``, else the selection beside this file."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLED = Path(__file__).resolve().parent / "data"
_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared" / "reference"
REFERENCE = Path(os.environ.get("FOLDLINE_REFERENCE") or (_BESIDE_THE_REPOSITORY if _BESIDE_THE_REPOSITORY.is_dir() else BUNDLED))
