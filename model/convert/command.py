"""``foldline weights import`` and ``foldline weights export``."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from ...errors import FoldlineError
from ...settings import nearest
from ..config import ModelConfig
from ..weights import read_weights, save_weights
from .deepmind import is_fused, load_deepmind, to_deepmind


def weights_command(action: str, source: Path, preset: str, out: Path, layout: str) -> int:
    """Translate ``source`` into ``out``; the whole file or none. Raises FoldlineError where names, shapes or paths do not fit."""
    if preset not in ModelConfig.PRESETS:
        raise FoldlineError(f"--preset {preset!r} is not a preset; {nearest(preset, ModelConfig.PRESETS)}")
    if out.exists():
        raise FoldlineError(f"{out} exists; remove it or choose another --out")
    config = ModelConfig.PRESETS[preset]()
    if action == "import":
        arrays = read_npz(source)
        state = load_deepmind(arrays, config, str(source))
        save_weights(out, state, {"preset": preset, "source": layout, "fused_triangles": str(int(is_fused(arrays)))})
    else:
        state, metadata = read_weights(source)
        write_npz(out, to_deepmind(state, config, metadata.get("fused_triangles") == "1", str(source)))
    print(f"{out}: {sum(t.numel() for t in state.values()):,} parameters in {len(state)} tensors, preset {preset}")
    return 0


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz, never unpickling. Raises FoldlineError for a missing or damaged file or one that holds objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise FoldlineError(f"{path} is a single array, not an npz of named arrays; give the params_model_*.npz file")
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise FoldlineError(f"no parameters at {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FoldlineError(f"{path} is not a readable npz of arrays: {error}; download or copy it again") from None


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz; the file appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FoldlineError(f"cannot write parameters to {path}: {error}") from None
