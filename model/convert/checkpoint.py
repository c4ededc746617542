"""Torch files of named tensors (``*.pt``): read without running anything they hold, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ...errors import FoldlineError
from ...whole_file import named_file

# Where training codes keep the parameters, in the order they are looked for: the averaged ones before the raw ones.
HOLDERS = ("ema", "params", "state_dict", "module", "model")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The parameters of a torch file: a plain state dict, or one held under 'ema', 'params', 'state_dict', 'module' or 'model'.

    Raises FoldlineError for a missing or damaged file and for one that holds Python objects beside tensors and plain values.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FoldlineError(f"no parameters at {path}; give the file that was downloaded") from None
    except IsADirectoryError:
        raise FoldlineError(f"{path} is a folder; give the .pt file of the model's parameters") from None
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError) as error:
        raise FoldlineError(
            f"{path} is not a torch file of tensors alone: {_reason(error)}; Python objects in it are never run: save the state"
            " dict itself with torch.save(model.state_dict(), PATH) where the file was made, or copy it again if it is damaged"
        ) from None
    return _parameters(found, path)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a plain state dict; the file appears whole or not at all."""
    with named_file(path, "parameters", RuntimeError) as partial, partial.open("wb") as file:
        torch.save(dict(tensors), file)  # by the name of a path torch would name what is inside


def _parameters(found: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(found, Mapping) and (holder := next((name for name in HOLDERS if isinstance(found.get(name), Mapping)), None)):
        found = found[holder]
    if not isinstance(found, Mapping) or not found:
        raise FoldlineError(f"{path} holds no named tensors; give a state dict, or one under {', '.join(HOLDERS)}")
    if odd := [str(name) for name, value in found.items() if not isinstance(value, Tensor)]:
        raise FoldlineError(f"{path} is no state dict: {', '.join(odd[:20])} {'is' if len(odd) == 1 else 'are'} not a tensor")
    return {str(name): value for name, value in found.items()}


def _reason(error: Exception) -> str:
    """What torch found; its messages go on with advice to switch the protection off."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {found[1]}" if found else str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
