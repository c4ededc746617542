"""The whole network on the device: DeepMind's cases, every intermediate result, every output, every parameter's gradient."""

from __future__ import annotations

from dataclasses import replace

import torch

from foldline.benchmarks.gpu.errors import Arrays, on_cpu, torsions_on_cpu, worst_norm
from foldline.benchmarks.gpu.harness import FAIL, Report, Row, Settings
from foldline.benchmarks.gpu.precision import MODES, arithmetic
from foldline.model.alphafold import AlphaFold, run_cycles, run_ensemble
from foldline.model.convert.deepmind import to_deepmind
from foldline.model.losses.total import AlphaFoldLoss
from foldline.tests.reference import model_cases as cases
from foldline.tests.reference import trace
from foldline.trainer.step import to_device

# The reference's README: arrays relative to their largest value, atoms in ångström without and with recycling, gradients.
ARRAYS, ATOMS, ATOMS_RECYCLED, GRADIENTS = 1e-3, 1e-3, 5e-3, 1e-2
ATOM_NAMES = ("atom_pos", "_positions")
SMALL = 2  # cases of the dry run


def network(case: str, dtype: torch.dtype, device: str) -> AlphaFold:
    return trace.load(case).to(device, dtype)


def run(case: str, dtype: torch.dtype, device: str, mode: str) -> dict[str, trace.Named]:
    """Intermediate results by the reference's names, outputs under ``out/``; on the CPU in float64."""
    model = network(case, dtype, device)
    passes = [to_device(tuple(members), torch.device(device)) for members in cases.cycles(case, dtype)]
    traced = trace.Trace(model)
    with torch.no_grad(), arithmetic(mode, device, model), torsions_on_cpu():
        out = run_ensemble(model, passes) if len(passes[0]) > 1 else run_cycles(model, [members[0] for members in passes])
        final = trace.outputs(model, passes[-1][0], out)
    found = traced.found | {f"out/{name}": named for name, named in final.items()}
    return {name: trace.Named(on_cpu(named.value), named.residue_axes) for name, named in found.items()}


def unpadded(case: str, found: dict[str, trace.Named]) -> Arrays:
    """The part of each result under residues that exist."""
    n_res = int(cases.arrays(case, "batch")["seq_mask"][0].sum())
    arrays = {}
    for name, (value, axes) in found.items():
        for axis in axes:
            value = value.narrow(axis, 0, n_res)
        arrays[name] = value
    return arrays


def against_deepmind(case: str, found: dict[str, trace.Named]) -> tuple[float, float]:
    """(worst error relative to an array's largest value, worst atom in ångström) over everything that the case stores."""
    n_res = int(cases.arrays(case, "batch")["seq_mask"][0].sum())
    theirs = dict(cases.arrays(case, "intermediates"))
    theirs |= {f"out/{name}": a for name, a in cases.arrays(case, "outputs").items() if not name.startswith(trace.OF_THE_LOSS)}
    differences = {name: trace.difference(found[name], array, n_res) for name, array in theirs.items()}
    atoms = [d.error for name, d in differences.items() if name.endswith(ATOM_NAMES)]
    return max(d.error / max(d.scale, 1e-3) for d in differences.values()), max(atoms)


def gradients(case: str, dtype: torch.dtype, device: str, mode: str) -> Arrays:
    """Of the total loss without the aligned-error term, whose reference value rounding decides, by DeepMind's names."""
    model, passes = network(case, dtype, device), [members[0] for members in cases.cycles(case, dtype)]
    passes, targets = list(to_device(tuple(passes), torch.device(device))), to_device(cases.targets(case, dtype), torch.device(device))
    loss = AlphaFoldLoss(replace(model.config, loss=replace(model.config.loss, pae_weight=0.0)))
    with torsions_on_cpu():
        with arithmetic(mode, device, model):
            total = loss(run_cycles(model, passes), passes[-1], targets).total
        total.backward()
    named = {name: on_cpu(torch.zeros_like(p) if p.grad is None else p.grad) for name, p in model.named_parameters()}
    flat = to_deepmind(named, model.config)
    return {name: torch.as_tensor(array) for name, array in flat.items() if "predicted_aligned_error" not in name}


def check(report: Report, settings: Settings) -> None:
    """One row for each case, arithmetic and direction."""
    if not settings.reference.is_dir():
        report.not_run("network", f"no reference folder {settings.reference}; name it in FOLDLINE_REFERENCE")
        return
    if not cases.CASES:
        report.add(Row("network", FAIL, note=f"{settings.reference}/model_tiny holds no case"))
    chosen = cases.CASES[:SMALL] if settings.small else cases.CASES
    for case in chosen:
        if settings.late:
            report.skip(case)
            return
        forward(report, settings, case)
    with_gradients = [case for case in cases.CASES if cases.has(case, "grads_nopae")]
    for case in with_gradients[:1] if settings.small else with_gradients:
        if settings.late:
            report.skip(f"{case}, gradients")
            return
        backward(report, settings, case)


def forward(report: Report, settings: Settings, case: str) -> None:
    exact = unpadded(case, run(case, torch.float64, "cpu", "fp32"))
    for mode, bounds in MODES.items():
        found = run(case, torch.float32, settings.device, mode)
        if mode == "fp32":
            arrays, atoms = against_deepmind(case, found)
            report.at_most(f"{case}, fp32 against DeepMind", arrays, ARRAYS, note="of an array's largest value")
            bound = ATOMS_RECYCLED if cases.settings(case)["num_recycle"] else ATOMS
            report.at_most(f"{case}, fp32 against DeepMind, atoms", atoms, bound, "Å")
        report.at_most(f"{case}, {mode} against float64", worst_norm(unpadded(case, found), exact), bounds.network)


def backward(report: Report, settings: Settings, case: str) -> None:
    exact = gradients(case, torch.float64, "cpu", "fp32")
    stored = {name: torch.from_numpy(a).double() for name, a in cases.arrays(case, "grads_nopae").items() if name != "total_loss"}
    for mode, bounds in MODES.items():
        found = gradients(case, torch.float32, settings.device, mode)
        if mode == "fp32":
            report.at_most(f"{case}, gradients, fp32 against DeepMind", worst_norm(found, stored, bounds.floor), GRADIENTS)
        report.at_most(f"{case}, gradients, {mode} against float64", worst_norm(found, exact, bounds.floor), bounds.network_gradient)
