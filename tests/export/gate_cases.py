"""Engines for the tests of the gate: PyTorch itself, PyTorch with a fault, and runners that misbehave around it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.graph import Arrays, output_schema
from foldline.export.runners import ArrayState, Runner, State, TensorState, TorchRunner, check_sizes
from foldline.export.stages import find_policy
from foldline.model.alphafold import AlphaFold
from foldline.model.precision import apply_precision

aten = torch.ops.aten


def moved(model: AlphaFold, name: str, by: float) -> TorchRunner:
    """PyTorch with one parameter moved."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter(name).add_(by)
    return TorchRunner(twin)


def dropped(model: AlphaFold, name: str) -> TorchRunner:
    """PyTorch without one parameter: zero stands in its place, as for an engine whose refit forgot a bias."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter(name).zero_()
    return TorchRunner(twin)


def half(model: AlphaFold) -> TorchRunner:
    """fp16 factors, fp32 sums: what the precision "fp16" of an engine means."""
    twin = copy.deepcopy(model)
    apply_precision(twin, find_policy("fp16"))
    return TorchRunner(twin)


def cropped(record: ChainRecord, residues: int) -> ChainRecord:
    """The first residues of a chain, with every row of its alignments."""
    msas = tuple(replace(msa, rows=msa.rows[:, :residues], deletions=msa.deletions[:, :residues]) for msa in record.msas)
    own = {name: getattr(record, name)[:residues] for name in ("sequence", "aatype", "residue_index", "positions", "mask")}
    return replace(record, msas=msas, **own)


class HalfSums(TorchDispatchMode):
    """Every matrix product in fp16, its running sum rounded to fp16 after every few terms, as by tensor cores that accumulate in fp16."""

    BLOCK = 4

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (aten.mm.default, aten.bmm.default):
            return self.product(*args)
        if func is aten.addmm.default and not kwargs:
            return args[0] + self.product(args[1], args[2])
        with self:
            made = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if made is NotImplemented else made

    def product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(*a.shape[:-1], b.shape[-1], dtype=torch.float16)
        for start in range(0, a.shape[-1], self.BLOCK):
            part = a[..., start : start + self.BLOCK].half().float() @ b[..., start : start + self.BLOCK, :].half().float()
            total = (total.float() + part).half()
        return total.to(a.dtype)


class HalfSummed:
    """A runner whose products accumulate in fp16."""

    def __init__(self, inner: Runner) -> None:
        self.name, self.config, self.limits, self.multiple, self.inner = "half sums", inner.config, inner.limits, inner.multiple, inner

    def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
        with HalfSums():
            return self.inner.start(features, previous)


class Limited:
    """A runner with size limits, and what it does about them."""

    def __init__(self, inner: Runner, limits: Mapping[str, tuple[int, int]], refuses: str = "with the limit") -> None:
        self.name, self.config, self.limits, self.multiple = "limited", inner.config, limits, 1
        self.inner, self.refuses = inner, refuses

    def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
        if self.refuses != "never":
            try:
                check_sizes(features, self)
            except FoldlineError:
                if self.refuses == "with the limit":
                    raise
                raise (FoldlineError("too large") if self.refuses == "without the limit" else RuntimeError("CUDA error 700")) from None
        return self.inner.start(features, previous)


class Broken:
    """A runner with a fault in its outputs."""

    def __init__(self, inner: Runner, fault: Callable[[Arrays, Arrays], None]) -> None:
        self.name, self.config, self.limits, self.multiple = "broken", inner.config, inner.limits, inner.multiple
        self.inner, self.fault, self.before = inner, fault, None

    def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
        state = self.inner.start(features, None if previous is None else self.before)
        self.before = state
        outputs = state.fetch(list(output_schema(self.config)))
        self.fault(dict(features), outputs)
        return ArrayState(outputs)


class OneCall:
    """A fault of one call alone, the first being 0."""

    def __init__(self, fault: Callable[[Arrays, Arrays], None], call: int = 0) -> None:
        self.fault, self.call, self.calls = fault, call, 0

    def __call__(self, features: Arrays, outputs: Arrays) -> None:
        if self.calls == self.call:
            self.fault(features, outputs)
        self.calls += 1


class Nudged:
    """A runner whose recycled positions are off by up to ``by`` ångström, as rounding leaves them, only more."""

    def __init__(self, inner: Runner, by: float) -> None:
        self.name, self.config, self.limits, self.multiple, self.inner, self.by = "nudged", inner.config, inner.limits, 1, inner, by

    def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
        outputs = self.inner.start(features, previous).fetch(list(output_schema(self.config)))
        shift = np.random.default_rng(0).uniform(-self.by, self.by, outputs["next_x"].shape)
        outputs["next_x"] += shift.astype(np.float32)
        return TensorState({name: torch.from_numpy(value) for name, value in outputs.items()})


def shake(features: Arrays, outputs: Arrays) -> None:
    """Sums whose order changes from run to run."""
    outputs["positions"] += np.random.default_rng().normal(0, 1e-6, outputs["positions"].shape).astype(np.float32)


def leak_padding(features: Arrays, outputs: Arrays) -> None:
    """Padding that moves what is real."""
    if len(features["seq_mask"]) > features["seq_mask"].sum():
        outputs["positions"] += 1


def leak_confidence(features: Arrays, outputs: Arrays) -> None:
    if len(features["seq_mask"]) > features["seq_mask"].sum():
        outputs["plddt"][0, 10:] -= 1


def leak_rows(features: Arrays, outputs: Arrays) -> None:
    """Padded alignment rows that are counted."""
    if (features["msa_mask"].sum(-1) == 0).any():
        outputs["positions"] += 1


def lose_templates(features: Arrays, outputs: Arrays) -> None:
    """Wrong wherever templates are read."""
    if features["template_atom_mask"].any():
        outputs["positions"] += 1


def break_down(features: Arrays, outputs: Arrays) -> None:
    outputs["positions"][3] = np.nan


def lose_confidence(features: Arrays, outputs: Arrays) -> None:
    outputs["plddt"][0, 10:] -= 1


def lose_all_confidence(features: Arrays, outputs: Arrays) -> None:
    outputs["plddt"][:, :10] += 0.05


def lose_alignment(features: Arrays, outputs: Arrays) -> None:
    outputs["pae"][..., :10] += 2


def lose_distances(features: Arrays, outputs: Arrays) -> None:
    outputs["distogram"][2, 3] = outputs["distogram"][2, 3, ::-1].copy()


def lose_an_atom(features: Arrays, outputs: Arrays) -> None:
    outputs["atom_mask"][0, 0] = 0


def scatter(features: Arrays, outputs: Arrays) -> None:
    """Every atom a little off, none of them far: the mean notices, the worst atom does not."""
    outputs["positions"] += np.float32(0.04)


def shrink(features: Arrays, outputs: Arrays) -> None:
    outputs["positions"] *= np.float32(0.97)
