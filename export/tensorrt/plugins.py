"""cuEquivariance's TensorRT plugins: registered before a graph that has their nodes is parsed, and before a plan that has them is loaded.

The only file that imports the package. They call Python and PyTorch while an engine runs.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from ...errors import FoldlineError, missing_package
from ..config import CUEQUIVARIANCE

PACKAGE, EXTRA = "cuequivariance_ops_torch", "cuequivariance"
OLDEST = (0, 13)  # whose op_table ``export.plugins`` follows
# Up to this many queries the attention would take the package's PyTorch code, which adds up logits in half precision.
FALLBACK = ("CUEQ_TRIATTN_FALLBACK_THRESHOLD", "0")


def register_plugins() -> dict[str, str]:
    """Register the plugins with TensorRT, once for the process; returns what an engine of them depends on: package -> version.

    Raises FoldlineError with the reason when the package is missing, does not load (it needs a GPU's driver and PyTorch for CUDA), or is
    too old. Name and value of ``FALLBACK`` hold unless the environment has another value.
    """
    os.environ.setdefault(*FALLBACK)  # read when the package is imported
    what = f"export.plugins = '{CUEQUIVARIANCE}'"
    try:
        package: Any = importlib.import_module(PACKAGE)
        importlib.import_module(f"{PACKAGE}.tensorrt").register_plugins()
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise FoldlineError(f"{what}: {PACKAGE} needs the package '{error.name}', which is not installed; install it") from None
        raise missing_package(PACKAGE, EXTRA, what) from None
    except (ImportError, OSError) as error:
        raise FoldlineError(
            f"{what}: {PACKAGE} is installed but does not load: {error}; it needs an NVIDIA driver and PyTorch for CUDA: "
            "build on such a machine, or without export.plugins"
        ) from None
    version = str(package.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise FoldlineError(f"{what}: {PACKAGE} {version} is older than 0.13; run: pip install -U 'foldline[{EXTRA}]'")
    return {PACKAGE: version}


def plugins_here(built: Mapping[str, Any]) -> dict[str, Any]:
    """The fact "plugins" of an engine with the facts ``built`` as it would be made here; nothing for an engine without plugins."""
    return {"plugins": register_plugins()} if "plugins" in built else {}
