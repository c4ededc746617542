"""Every module of the reference folder on the device: against DeepMind's stored results, and against float64 forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foldline.benchmarks.gpu.errors import Arrays, on_cpu, worst_element, worst_norm
from foldline.benchmarks.gpu.harness import FAIL, Report, Row, Settings
from foldline.benchmarks.gpu.precision import MODES, arithmetic
from foldline.model.convert.layout import Row as NameRow
from foldline.tests.reference import test_modules, test_structure
from foldline.tests.reference.module_cases import Case, builder_of, case, claimed

DEEPMIND = 1e-4  # worst element, relative to max(1, |x|): the reference's README
SMALL = ("attention_gating1", "evoformer_iteration", "triangle_attention_ending_node", "structure_module")


@dataclass(frozen=True)
class PlacedCase(Case):
    """A case whose modules are built where its inputs are, and remembered."""

    device: str = "cpu"
    built: list[nn.Module] = field(default_factory=list)

    def load(self, module: nn.Module, rows: list[NameRow]) -> nn.Module:
        self.built.append(super().load(module, rows).to(self.device))
        return self.built[-1]


def placed(name: str, dtype: torch.dtype, device: str) -> PlacedCase:
    """A case of the folder on ``device``."""
    c = case(name).cast(dtype)
    inputs = {key: tensor.to(device) for key, tensor in c.inputs.items()}
    return PlacedCase(c.name, c.config, inputs, c.params, c.outputs, device)


def real_residues(name: str, c: Case) -> Tensor | None:
    """For the structure module, the residues to compare: masked rows keep two digits in float32."""
    if builder_of(name, test_structure.BUILDERS) is None:
        return None
    return c.inputs.get("seq_mask", c.inputs.get("mask", torch.ones(len(c.inputs.get("act", ()))))).flatten().bool().cpu()


def cut(key: str, value: Tensor, real: Tensor | None) -> Tensor:
    along = 1 if key == "traj" or key.startswith("sidechains/") else 0
    return value if real is None else value.movedim(along, 0)[real.to(value.device)]


def results(name: str, dtype: torch.dtype, device: str, mode: str) -> tuple[Arrays, Arrays]:
    """(outputs, gradient of a random projection of them by every parameter), both cut to the residues that count."""
    c = placed(name, dtype, device)
    real = real_residues(name, c)
    builder = builder_of(name, test_structure.BUILDERS) or builder_of(name, test_modules.BUILDERS)
    if builder is None:
        raise LookupError(f"no test knows how to run the case {name}")
    with arithmetic(mode, device):
        ours = {key: cut(key, value, real) for key, value in builder(c).items()}
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(ours[key].shape, generator=generator, dtype=torch.float64) for key in sorted(ours)}
    total = sum((ours[key].double() * weights[key].to(device)).sum() for key in ours if ours[key].requires_grad)
    if isinstance(total, Tensor):
        total.backward()
    parameters = {f"{i}.{key}": p for i, module in enumerate(c.built) for key, p in module.named_parameters()}
    gradients = {key: on_cpu(torch.zeros_like(p) if p.grad is None else p.grad) for key, p in parameters.items()}
    return {key: on_cpu(value) for key, value in ours.items()}, gradients


def stored(name: str) -> Arrays:
    """DeepMind's outputs in the form of ours."""
    c = case(name).cast(torch.float64)
    real = real_residues(name, c)
    if real is None:
        return c.outputs
    return {k: cut(k, test_structure.comparable(k, v, c), real) for k, v in c.outputs.items() if k != "final_atom14_mask"}


def check(report: Report, settings: Settings) -> None:
    """The worst module of each arithmetic; all of them are in the table."""
    if not (settings.reference / "modules").is_dir():
        report.not_run("modules", f"no {settings.reference}/modules; name the folder in FOLDLINE_REFERENCE")
        return
    names = [*claimed(test_modules.BUILDERS), *claimed(test_structure.BUILDERS)]
    if settings.small:
        names = [name for name in names if name in SMALL]
    if not names:
        report.add(Row("modules", FAIL, note=f"{settings.reference}/modules holds no case that is known"))
        return
    for name in names:
        if settings.late:
            report.skip(name)
            break
        exact, exact_gradients = results(name, torch.float64, "cpu", "fp32")
        line: dict[str, object] = {"module": name}
        for mode in MODES:
            ours, gradients = results(name, torch.float32, settings.device, mode)
            if mode == "fp32":
                line["deepmind"] = worst_element(ours, stored(name))
            line |= {mode: worst_norm(ours, exact), f"{mode} gradient": worst_norm(gradients, exact_gradients, MODES[mode].floor)}
        report.table.append(line)
    summarise(report)


def summarise(report: Report) -> None:
    """Print the table and one row for each of its columns."""
    columns = [key for key in report.table[0] if key != "module"]
    print("  " + f"{'module':40}" + "".join(f"{column:>15}" for column in columns))
    for line in report.table:
        print("  " + f"{line['module']:40}" + "".join(f"{line[column]:15.1e}" for column in columns), flush=True)
    bounds = {"deepmind": DEEPMIND}
    for mode, bound in MODES.items():
        bounds |= {mode: bound.module, f"{mode} gradient": bound.module_gradient}
    for column in columns:
        worst = max(report.table, key=lambda line: line[column] if line[column] == line[column] else float("inf"))
        what = "fp32 against DeepMind" if column == "deepmind" else f"{column} against float64"
        report.at_most(what, worst[column], bounds[column], note=f"worst of {len(report.table)}: {worst['module']}")
