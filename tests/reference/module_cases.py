"""The folder of single-module cases (modules/<name>.npz, index.json): our module with DeepMind's weights, inputs and outputs.

A case belongs to the builder with the longest matching name, so that a folder with further variants of a module runs unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foldline.model.convert.layout import Row
from foldline.tests.reference.model_cases import REFERENCE

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One npz: ``config`` of index.json, ``inputs`` and ``outputs`` by name ('' for a single output), ``params`` by DeepMind's name."""

    name: str
    config: Any
    inputs: dict[str, Tensor]
    params: dict[str, Tensor]
    outputs: Outputs

    def cast(self, dtype: torch.dtype) -> Case:
        """The same with every floating tensor in ``dtype``."""
        parts = (
            {k: v.to(dtype) if v.is_floating_point() else v for k, v in part.items()} for part in (self.inputs, self.params, self.outputs)
        )
        return Case(self.name, self.config, *parts)

    def width(self, parameter: str, axis: int) -> int:
        """A size read from the parameter whose name ends so."""
        (found,) = (array for name, array in self.params.items() if name.endswith(parameter))
        return int(found.shape[axis])

    def load(self, module: nn.Module, rows: list[Row]) -> nn.Module:
        """``module`` with this case's weights, every one of them; ``rows`` call the module ``x``."""
        state = {name.removeprefix("x."): tensor for row in rows for name, tensor in row.to_ours(self.params).items()}
        assert {name for row in rows for name in row.theirs} == set(self.params), "every parameter of the case is used"
        module.load_state_dict(state, strict=True)
        return module.to(next(iter(self.params.values())).dtype).eval()


Builder = Callable[[Case], Outputs]


@cache
def index() -> dict[str, Any]:
    path = REFERENCE / "modules" / "index.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


@cache
def case(name: str) -> Case:
    """Read one case."""
    inputs, params, outputs = {}, {}, {}
    with np.load(REFERENCE / "modules" / f"{name}.npz", allow_pickle=False) as file:
        for key in file.files:
            kind, _, rest = key.partition("/")
            tensor = torch.from_numpy(np.asarray(file[key]))
            {"in": inputs, "param": params, "out": outputs}[kind][rest] = tensor if tensor.is_floating_point() else tensor.long()
    return Case(name, index()[name]["config"], inputs, params, outputs)


def claimed(builders: dict[str, Builder]) -> list[str]:
    """The names of all cases in the folder that one of ``builders`` can run."""
    return [name for name in index() if builder_of(name, builders) is not None and (REFERENCE / "modules" / f"{name}.npz").exists()]


def builder_of(name: str, builders: dict[str, Builder]) -> Builder | None:
    """The builder with the longest name that ``name`` starts with."""
    prefixes = [prefix for prefix in builders if name.startswith(prefix)]
    return builders[max(prefixes, key=len)] if prefixes else None


def assert_close(ours: Tensor, theirs: Tensor, typical: float = 1e-5, worst: float = 1e-4) -> None:
    """Errors relative to max(1, |x|): nine in ten within ``typical``, all within ``worst``."""
    assert ours.shape == theirs.shape
    assert bool(torch.isfinite(ours).all())
    error = ((ours - theirs).abs() / theirs.abs().clamp(min=1.0)).double().flatten()
    assert float(error.quantile(0.9)) <= typical, f"typical error {float(error.quantile(0.9)):.1e}"
    assert float(error.max()) <= worst, f"worst error {float(error.max()):.1e}"
