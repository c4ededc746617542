"""TensorRT and TensorRT-RTX as kinds of engines: what ``tensorrt`` builds, in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FoldlineError
from .config import NO_PLUGINS
from .core import Core, copy_own_graphs, graph_hashes
from .engine_store import Built, Engine
from .kinds import Order, Precisions, Say, common
from .profiles import bucket_profiles
from .runners import Runner

PRECISIONS = ("bf16", "fp16", "fp32")


class TensorRTKind:
    """``name``: the module, "tensorrt" or "tensorrt_rtx". TensorRT-RTX builds without a GPU; both run on one only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.precisions: Precisions = {"cuda": PRECISIONS}

    def why_not(self, device: str) -> str | None:
        """See ``Kind.why_not``."""
        from .tensorrt import why_not

        return why_not(self.name)

    def why_not_build(self, device: str) -> str | None:
        """See ``Kind.why_not_build``."""
        from .tensorrt import load, why_not

        if self.name == "tensorrt":
            return why_not(self.name)
        try:
            load(self.name)
        except FoldlineError as error:
            return str(error)
        return None

    def build(self, core: Core, order: Order, folder: Path, say: Say) -> Built:
        """Plans for the length buckets of ``order``, from the graphs in its precision."""
        from .tensorrt import BuildOptions, build
        from .tensorrt.plugins import register_plugins

        plugins = register_plugins() if order.plugins != NO_PLUGINS else {}
        graphs = core.need_graphs(order.precision, folder, order.plugins)
        targets = (order.compute_capability,) if order.compute_capability else ()
        facts = build(
            self.name,
            graphs,
            core.model,
            bucket_profiles(order.lengths, core.features, order.tensorrt.wide),
            folder,
            precision=order.precision,
            weights_sha256=core.weights_sha256,
            options=BuildOptions(order.tensorrt.weights, targets, order.tensorrt.portable),
            plugins=plugins,
            on_stage=say,
        )
        return self._built(core, order.precision, facts)

    def depends(self, core: Core, engine: Engine) -> Mapping[str, Any]:
        """The weights, the network, the graphs, the installed version; raises FoldlineError where the plans are for another GPU."""
        from .tensorrt import load
        from .tensorrt.backend import this_gpu
        from .tensorrt.identity import check_gpu
        from .tensorrt.plugins import plugins_here

        facts, gpu = engine.details["tensorrt"], this_gpu()
        if gpu is not None:
            check_gpu(facts, gpu, str(engine.path))
        graphs = graph_hashes(core.graphs(engine.precision, engine.path))
        here = dict(facts) | {"version": load(self.name).__version__, "onnx": graphs} | plugins_here(facts)
        return self._built(core, engine.precision, here).depends

    def open(self, core: Core, engine: Engine) -> Runner:
        """See ``Kind.open``."""
        from .tensorrt import TensorRTRunner

        return TensorRTRunner(engine.path, engine.details["tensorrt"], core.model)

    def why_not_refit(self, engine: Engine) -> str | None:
        """Plans that were built with their weights inside keep them."""
        from .tensorrt.options import STRIP

        mode = engine.details["tensorrt"]["mode"]
        return None if mode == STRIP else f"its weights are part of its plans (mode '{mode}'); build it on a machine with a GPU to refit it"

    def refit(self, core: Core, old: Engine, folder: Path) -> Built:
        """The plans with other weights; needs no GPU. FoldlineError where they were built with their weights inside."""
        from .tensorrt import refit

        copy_own_graphs(core, old.path, folder)
        facts = refit(old.path, old.details["tensorrt"], core.weights, folder, core.weights_sha256)
        return self._built(core, old.precision, facts)

    def _built(self, core: Core, precision: str, facts: Mapping[str, Any]) -> Built:
        own = {"machine": facts["architecture"], "versions": {self.name: facts["version"]}, "graphs": facts["onnx"]}
        sizes = {"profiles": facts["profiles"], "mode": facts["mode"]}
        plugins = {"plugins": facts["plugins"]} if "plugins" in facts else {}
        return Built(common(core, self.name, precision, "cuda") | own | sizes | plugins, {"tensorrt": facts, "limits": facts["limits"]})
