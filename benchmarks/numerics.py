"""How far our numbers are from DeepMind's: the table of docs/numerics.md.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/numerics.py

Reads the reference folder (FOLDLINE_REFERENCE, default ../shared/reference) with the comparisons of tests/reference. The stored values are
float32, so the float64 column shows their rounding alone.
"""

from __future__ import annotations

import torch

from foldline.tests.reference import test_modules, test_structure
from foldline.tests.reference.model_cases import CASES, has
from foldline.tests.reference.module_cases import builder_of, case, claimed
from foldline.tests.reference.trace import Difference, differences, gradient_differences

DTYPES = (torch.float32, torch.float64)


def main() -> None:
    """Print the three tables."""
    print("Modules: worst error, relative to max(1, |x|).\n")
    print("| module | float32 | float64 |\n| --- | --- | --- |")
    for builders in (test_modules.BUILDERS, test_structure.BUILDERS):
        for name in claimed(builders):
            print(f"| {name} | {module_error(name, torch.float32):.1e} | {module_error(name, torch.float64):.1e} |")
    print("\nWhole network: worst error over all intermediate results and outputs, relative to each array's largest value; atoms in Å.\n")
    print("| case | arrays | float32 | float64 | atoms, float32 | atoms, float64 |\n| --- | --- | --- | --- | --- | --- |")
    for name in CASES:
        both = [differences(name, dtype) for dtype in DTYPES]
        errors = " | ".join(f"{worst(found):.1e}" for found in both)
        atoms = " | ".join(f"{max(d.error for key, d in found.items() if key.endswith(('atom_pos', '_positions'))):.1e}" for found in both)
        print(f"| {name} | {len(both[0])} | {errors} | {atoms} |")
    print(
        "\nGradients of the total loss: worst error, relative to each array's largest value; not of arrays that are 0 but for rounding.\n"
    )
    print("| case | parameters | total loss | float32 |\n| --- | --- | --- | --- |")
    for name in (name for name in CASES if has(name, "grads_nopae")):
        total, found = gradient_differences(name)
        largest = max(d.scale for d in found.values())
        kept = {key: d for key, d in found.items() if d.scale > 1e-7 * largest}
        print(f"| {name} | {len(kept)} of {len(found)} | {total:.4f} | {worst(kept):.1e} |")


def worst(found: dict[str, Difference]) -> float:
    """The largest error relative to its array; masks and constants of 0 count as they are."""
    return max(d.error / (d.scale or 1.0) for d in found.values())


@torch.no_grad()
def module_error(name: str, dtype: torch.dtype) -> float:
    """Worst error of one module case, over the residues that exist where the structure module is concerned."""
    c = case(name).cast(dtype)
    structure = builder_of(name, test_structure.BUILDERS)
    builder = structure or builder_of(name, test_modules.BUILDERS)
    if builder is None:
        raise SystemExit(f"no test knows how to run the case {name}")
    worst_error = 0.0
    for key, ours in builder(c).items():
        theirs = c.outputs[key]
        if structure:
            real = c.inputs.get("seq_mask", c.inputs.get("mask", torch.ones(len(c.inputs.get("act", ()))))).flatten().bool()
            along = 1 if key == "traj" or key.startswith("sidechains/") else 0
            ours, theirs = (x.movedim(along, 0)[real] for x in (ours, test_structure.comparable(key, theirs, c)))
        worst_error = max(worst_error, float(((ours - theirs).abs() / theirs.abs().clamp(min=1.0)).max()))
    return worst_error


if __name__ == "__main__":
    main()
