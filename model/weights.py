"""Weights on disk: safetensors, strict on both ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import FoldlineError
from ..whole_file import named_file

LISTED = 20  # names of each kind that an error shows


def count_parameters(model: nn.Module) -> int:
    """Number of scalars in the model's parameters."""
    return sum(p.numel() for p in model.parameters())


def save_weights(path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``state_dict`` as safetensors; the file appears whole or not at all. ``metadata`` is text for people and for provenance."""
    with named_file(path, "weights", SafetensorError) as partial:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in state_dict.items()}, partial, dict(metadata or {}))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises FoldlineError for a missing or damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise FoldlineError(
            f"no weights at {path}; a training writes them to RUN/weights/ema.safetensors, `foldline weights import` to a file you name"
        ) from None
    except (OSError, SafetensorError) as error:
        raise FoldlineError(f"{path} is not a readable safetensors file: {error}; write it again or copy it again") from None


def load_weights(path: Path, model: nn.Module) -> dict[str, str]:
    """Load a safetensors file into ``model`` and return the file's metadata.

    Strict: where names or shapes differ, one FoldlineError lists them and nothing is loaded. Values are cast to the parameters' dtype.
    """
    tensors, metadata = read_weights(path)
    load_state(tensors, model, str(path))
    return metadata


def load_state(tensors: Mapping[str, Tensor], model: nn.Module, where: str) -> None:
    """Copy ``tensors`` into ``model``, all or nothing; ``where`` names their source in the FoldlineError."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where)
    model.load_state_dict(dict(tensors))


def check_names(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise one FoldlineError that lists the unknown, missing and misshapen names of ``found`` (name -> shape), if there are any."""
    unknown = [name for name in found if name not in expected]
    missing = [name for name in expected if name not in found]
    misshapen = [
        f"{name} is {_dims(found[name])}, the model has {_dims(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = [_listing(kind, names) for kind, names in (("unknown", unknown), ("missing", missing), ("misshapen", misshapen)) if names]
    if parts:
        raise FoldlineError(
            f"{where} does not fit this model; {'; '.join(parts)}; nothing was loaded: use the preset the file was made with"
        )


def _dims(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _listing(kind: str, names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:LISTED])}{rest}"
