"""`make gpu-check`: what only a CUDA machine can tell, in one command without network.

    python benchmarks/gpu_check.py [--wheels DIR] [--only modules network] [--minutes 8] [--out DIR]
    python benchmarks/gpu_check.py --device cpu --small        # dry run of every check

Foldline is imported from this checkout, whatever is installed. Packages that the machine lacks come from a folder of wheels. The checks are
the files of benchmarks/gpu; docs/gpu-check.md says how to read their results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """0 when nothing failed and something passed, 1 otherwise, 2 for a command line that cannot be run."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="foldline-gpu-check-") as folder:
        make_importable(Path(folder))
        if arguments.wheels is not None:
            install_wheels(arguments.wheels, Path(folder) / "wheels")
        if arguments.small:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other take longer than the work
        reference = reference_folder()
        os.environ["FOLDLINE_REFERENCE"] = str(reference)  # read by tests/reference when it is imported
        from foldline.benchmarks.gpu.harness import Settings, run_all

        settings = Settings.start(arguments.device, arguments.small, arguments.minutes, reference, Path(folder))
        return run_all(settings, arguments.only, arguments.out)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes: a dry run of the checks themselves")
    parser.add_argument("--minutes", type=float, default=8.0, help="time budget; what has not begun by then is skipped, and says so")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these checks")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for packages that this machine lacks")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of gpu_check.json")
    arguments = parser.parse_args()
    if arguments.wheels is not None and not any(arguments.wheels.glob("*.whl")):
        parser.error(f"--wheels {arguments.wheels}: no *.whl in there")
    return arguments


def make_importable(folder: Path) -> None:
    """The checkout's root is the package: a link of that name goes first on the path, before any installed Foldline."""
    (folder / "foldline").symlink_to(ROOT)
    sys.path.insert(0, str(folder))


def install_wheels(wheels: Path, target: Path) -> None:
    """Unpack every wheel that fits this Python, one by one, so that one for another Python does not stop the others."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
    for wheel in sorted(wheels.glob("*.whl")):
        done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"wheel {wheel.name} is not used: {(done.stderr.strip() or 'pip failed').splitlines()[-1]}", flush=True)
    sys.path.insert(0, str(target))


def reference_folder() -> Path:
    """FOLDLINE_REFERENCE, or the first place that exists; the last one named where none does."""
    if named := os.environ.get("FOLDLINE_REFERENCE"):
        return Path(named).resolve()
    places = [ROOT / "tests" / "reference" / "data", ROOT.parent / "shared" / "reference", ROOT / "shared" / "reference"]
    return next((place for place in places if place.is_dir()), places[-1])


if __name__ == "__main__":
    sys.exit(main())
