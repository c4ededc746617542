"""``foldline weights import`` and ``foldline weights export``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor

from ...errors import FoldlineError
from ...settings import nearest
from ...whole_file import named_file
from ..config import ModelConfig
from ..weights import read_weights, save_weights
from .checkpoint import read_checkpoint, write_checkpoint
from .deepmind import is_fused, load_deepmind, to_deepmind
from .openfold import Layout, load_openfold, to_openfold, without_prefixes

TORCH_FILES = (".pt", ".pth", ".ckpt")


def weights_command(action: str, source: Path, preset: str, out: Path, layout: str) -> int:
    """Translate ``source`` into ``out``; the whole file or none. ``layout``: deepmind, openfold, or auto (by the file's ending).

    Raises FoldlineError where names, shapes or paths do not fit.
    """
    if preset not in ModelConfig.PRESETS:
        raise FoldlineError(f"--preset {preset!r} is not a preset; {nearest(preset, ModelConfig.PRESETS)}")
    if out.exists():
        raise FoldlineError(f"{out} exists; remove it or choose another --out")
    config = ModelConfig.PRESETS[preset]()
    if layout == "auto":
        layout = "openfold" if (source if action == "import" else out).suffix in TORCH_FILES else "deepmind"
    if action == "import":
        state, metadata = (import_openfold if layout == "openfold" else import_deepmind)(source, config)
        save_weights(out, state, {"preset": preset, "source": layout, **metadata})
    else:
        state, metadata = read_weights(source)
        if layout == "openfold":
            older, fused = metadata.get("openfold_older") == "1", metadata.get("fused_triangles") == "1"
            write_checkpoint(out, to_openfold(state, config, Layout(older, fused), str(source)))
        else:
            write_npz(out, to_deepmind(state, config, metadata.get("fused_triangles") == "1", str(source)))
    print(f"{out}: {sum(t.numel() for t in state.values()):,} parameters in {len(state)} tensors, preset {preset}")
    return 0


def import_deepmind(source: Path, config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict of an npz, and what its way back needs to know."""
    arrays = read_npz(source)
    return load_deepmind(arrays, config, str(source)), {"fused_triangles": str(int(is_fused(arrays)))}


def import_openfold(source: Path, config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict of an OpenFold file, and what its way back needs to know."""
    params = read_checkpoint(source)
    older, fused = Layout.of(without_prefixes(params))
    return load_openfold(params, config, str(source)), {"fused_triangles": str(int(fused)), "openfold_older": str(int(older))}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz, never unpickling. Raises FoldlineError for a missing or damaged file or one that holds objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise FoldlineError(f"{path} is a single array, not an npz of named arrays; give the params_model_*.npz file")
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise FoldlineError(f"no parameters at {path}; give the file that was downloaded") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FoldlineError(f"{path} is not a readable npz of arrays: {error}; download or copy it again") from None
    if odd := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise FoldlineError(f"{path} is not a readable npz of arrays: {odd[0]} in it is none; a torch file is read with --format openfold")
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz; the file appears whole or not at all."""
    with named_file(path, "parameters") as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
