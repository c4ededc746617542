"""Laws of the house: who may import whom, what the wheel holds, how the command line answers."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import get_type_hints

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_store", "model", "trainer", "export", "cluster")
# Root modules without imports of ours below them; everybody may use them.
COMMON = {"errors", "settings", "whole_file", "__version__"}
ALLOWED: dict[str, tuple[str, ...]] = {
    "data_store": (),
    "cluster": (),
    "model": ("data_store.residues", "data_store.types"),
    "export": ("model", "data_store"),
    "trainer": ("model", "data_store", "cluster", "export.runners"),
}
# Optional packages and the files that may import each: one, or one in each of two packages that may not import each other.
ONE_FILE = {
    "cuequivariance_ops_torch": ("export/tensorrt/plugins.py",),
    "deepspeed": ("trainer/engine.py",),
    "mlflow": ("trainer/tracking/feed.py", "trainer/tracking/registry.py"),
    "mpi4py": ("cluster/ranks.py", "data_store/pool.py"),
    "tensorrt": ("export/tensorrt/backend.py",),
    "tensorrt_rtx": ("export/tensorrt/backend.py",),
    "tensorstore": ("data_store/engine.py",),
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module of ``path`` as a dotted name from the root, and whether it is ours."""
    package = path.relative_to(ROOT).parent.parts
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name.removeprefix("foldline."), alias.name.startswith("foldline")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            ours = node.level > 0 or module.startswith("foldline")
            module = module.removeprefix("foldline").strip(".")
            found += [(f"{module}.{alias.name}".strip("."), ours) for alias in node.names]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_allowed_directions(package: str) -> None:
    for path in sources(package):
        for module, ours in imports(path):
            top = module.split(".")[0]
            if not ours or top == package or top in COMMON:
                continue
            allowed = any(module == rule or module.startswith(f"{rule}.") for rule in ALLOWED[package])
            assert allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_each_optional_package_is_imported_in_one_file() -> None:
    for package in (*PACKAGES, "cli.py", "settings.py", "errors.py", "whole_file.py"):
        for path in sources(package) if (ROOT / package).is_dir() else [ROOT / package]:
            for module, ours in imports(path):
                homes = ONE_FILE.get(module.split(".")[0]) if not ours else None
                here = str(path.relative_to(ROOT))
                assert homes is None or here in homes, f"{here} imports {module}, which belongs to {' and '.join(homes)}"


@pytest.mark.parametrize("module", ["cli", "cluster.ranks", "cluster.launch", "cluster.doctor", "data_store.types", "data_store.residues"])
def test_light_modules_do_not_load_torch(module: str) -> None:
    heavy = "{'torch', 'deepspeed', 'mlflow', 'mpi4py', 'zarr', 'onnx', 'pydantic'}"
    code = f"import sys, foldline.{module}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_package_list_names_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {"foldline"} | {
        ".".join(["foldline", *init.parent.relative_to(ROOT).parts])
        for package in PACKAGES
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert listed == folders


def test_wheel_holds_every_source_and_data_file(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {f"foldline/{name}" for name in tracked if (ROOT / name).exists()}
    source = tmp_path / "source"
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=ROOT, check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - names == set()
    assert {"foldline/cli.py", "foldline/errors.py", "foldline/settings.py", "foldline/whole_file.py"} <= names
    assert not [name for name in names if name.startswith(("foldline/tests", "foldline/benchmarks", "tests"))]
    assert "foldline = foldline.cli:main" in next(
        zipfile.ZipFile(wheel).read(name).decode() for name in names if name.endswith("entry_points.txt")
    )


def test_help_names_every_command() -> None:
    command = [str(Path(sys.executable).parent / "foldline"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("ingest", "store", "train", "export", "fold", "doctor"):
        assert name in text


def test_every_configuration_key_is_read_somewhere() -> None:
    """A key that nothing reads would be a promise that nothing keeps."""
    from foldline.export.config import ExportConfig
    from foldline.trainer.config import RunConfig

    read = {
        node.attr if isinstance(node, ast.Attribute) else node.value
        for package in PACKAGES
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    unread = [key for config in (RunConfig, ExportConfig) for key in keys(config) if key.split(".")[-1] not in read]
    assert unread == []


def keys(config: type, prefix: str = "") -> list[str]:
    """Dotted names of all values below a dataclass."""
    hints = get_type_hints(config)
    found: list[str] = []
    for item in dataclasses.fields(config):
        inner = hints[item.name]
        found += keys(inner, f"{prefix}{item.name}.") if dataclasses.is_dataclass(inner) else [f"{prefix}{item.name}"]
    return found
