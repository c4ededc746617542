"""What building TensorRT-RTX engines costs: seconds, CPU-seconds, memory and bytes by stage, ahead of time and without a GPU.

    python benchmarks/engine_build.py --preset model_1_ptm --precision bf16 --lengths 256

Sizes of alignments are those of AF2's initial training. Weights are random; they change nothing of this.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from foldline.data_store.config import FeatureConfig
from foldline.export.graphs import write_graphs
from foldline.export.profiles import bucket_profiles
from foldline.export.stages import PRECISIONS
from foldline.export.tensorrt import BuildOptions, build
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="model_1_ptm", choices=sorted(ModelConfig.PRESETS))
    parser.add_argument("--precision", default="bf16", choices=PRECISIONS)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256])
    parser.add_argument(
        "--compute-capabilities", nargs="*", default=[], help="GPUs to build for, as 8.9; none: all that RTX knows from 8.0 on"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="foldline-engine-build-") as folder:
        measure(arguments, Path(folder))
    return 0


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Graphs, then every stage for every length; one line each."""
    model = AlphaFold(ModelConfig.PRESETS[arguments.preset]())
    config = model.config
    (folder / "graphs").mkdir()
    start = time.monotonic()
    write_graphs(model, folder / "graphs", arguments.precision)
    size = sum(file.stat().st_size for file in (folder / "graphs").iterdir())
    print(f"graphs: {time.monotonic() - start:.1f} s, {size / 1e6:.1f} MB, peak {peak():.1f} GB", flush=True)
    del model
    clock = [time.process_time()]

    def told(text: str) -> None:
        before, clock[0] = clock[0], time.process_time()
        print(f"{text}, {clock[0] - before:.0f} CPU-s, peak {peak():.1f} GB", flush=True)

    profiles = bucket_profiles(arguments.lengths, FeatureConfig())
    options = BuildOptions(compute_capabilities=tuple(arguments.compute_capabilities))
    build(
        "tensorrt_rtx",
        folder / "graphs",
        config,
        profiles,
        folder / "engine",
        precision=arguments.precision,
        weights_sha256="0" * 64,
        options=options,
        on_stage=told,
    )


def peak() -> float:
    """The process's peak memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
