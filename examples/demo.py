"""The whole line on real proteins: ingest, train, export, a second engine, refit, fold. `make demo` runs it and prints its commands."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = Path("runs/demo")
FOLDLINE = str(Path(sys.executable).parent / "foldline")
QUICK = "--config examples/demo_export.toml --set export.bench.repeats=0"
STAGES: tuple[tuple[str, str], ...] = (
    ("raw mmCIF and PDB + A3M to a Zarr feature store", f"ingest examples/demo --store {RUN}/store"),
    ("training on two MPI ranks: DeepSpeed ZeRO-2, MLflow", "train --config examples/demo.toml --launcher mpi --ranks 2"),
    ("weights to ONNX, engine, gate, bundle", f"export --run {RUN} --out {RUN}/bundle --config examples/demo_export.toml"),
    ("a second engine into the bundle, which other bundles would build on their GPU", f"engine build {RUN}/bundle --kind torch {QUICK}"),
    (
        "other weights without building: those of an earlier checkpoint, gated again",
        f"engine refit {RUN}/bundle --weights {RUN}/checkpoints/step_00000600/ema.safetensors --out {RUN}/refitted {QUICK}",
    ),
    ("folding a protein that was not trained on", f"fold examples/demo/held_out --bundle {RUN}/bundle --out {RUN}/folds --recycles 1"),
)


def main() -> int:
    """Run the stages in order; stop with the exit code of the first that fails."""
    if (ROOT / RUN).exists():
        print(f"removing {RUN} of an earlier demo")
        shutil.rmtree(ROOT / RUN)
    (ROOT / RUN).mkdir(parents=True)
    begin = time.monotonic()
    for number, (title, command) in enumerate(STAGES, 1):
        print(f"\n=== {number}/{len(STAGES)}  {title}\n$ foldline {command}", flush=True)
        start = time.monotonic()
        code = subprocess.run([FOLDLINE, *shlex.split(command)], cwd=ROOT, check=False).returncode
        if code:
            print(f"the demo ends here: foldline {command} returned {code}", file=sys.stderr)
            return code
        print(f"    stage took {time.monotonic() - start:.0f} s", flush=True)
    print(f"\n=== done in {(time.monotonic() - begin) / 60:.1f} minutes\n\n{conclusion()}")
    return 0


def conclusion() -> str:
    """What the run's own files say: scores before and after, where everything lies."""
    summary = json.loads((ROOT / RUN / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    lines = ["lDDT-Cα (averaged weights, whole chains)      untrained   trained"]
    for chain, score in after["chains"].items():
        kind = "trained on" if score["split"] == "trained" else "held out"
        name = f"{chain}, {score['residues']} residues, {kind}"
        lines.append(f"  {name:34}      {before['chains'][chain]['lddt_ca']:9.3f} {score['lddt_ca']:9.3f}")
    for split, name in (("trained", "mean of the chains trained on"), ("validation", "mean of the chains held out")):
        key = f"validate/{split}/lddt_ca"
        lines.append(f"  {name:34}      {before[key]:9.3f} {after[key]:9.3f}")
    places = {
        "feature store": f"{RUN}/store",
        "weights": f"{RUN}/weights/ema.safetensors",
        "curves and distance maps": f"{RUN}/plots",
        "bundle with its gate reports": f"{RUN}/bundle",
        "the same under older weights": f"{RUN}/refitted",
        "folded structure, report page": f"{RUN}/folds/index.html",
    }
    lines += ["", *(f"{name:30} {place}" for name, place in places.items())]
    mlflow = Path(FOLDLINE).with_name("mlflow").relative_to(ROOT)
    return "\n".join([*lines, f"{'MLflow page':30} {mlflow} ui --backend-store-uri sqlite:///{RUN}/mlflow.db"])


if __name__ == "__main__":
    sys.exit(main())
