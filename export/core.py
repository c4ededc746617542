"""What engines are made of: the network's configuration, its weights and its graphs, in a bundle or in one that is being made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data_store.config import FeatureConfig
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.weights import load_weights, read_weights
from ..settings import from_dict
from .bundle import GRAPHS, WEIGHTS, Bundle, sha256_of
from .config import NO_PLUGINS
from .graphs import write_graphs
from .weight_file import WEIGHTS_FILE, write_weights


@dataclass(frozen=True)
class Core:
    """The core of the bundle in ``path``. ``features``: what the network was trained on; ``weights_sha256``: of its safetensors file."""

    path: Path
    model: ModelConfig
    features: FeatureConfig
    weights_sha256: str
    opset: int

    @classmethod
    def of(cls, bundle: Bundle) -> Core:
        """The core of an opened bundle."""
        manifest, where = bundle.manifest, str(bundle.path)
        return cls(
            bundle.path,
            from_dict(ModelConfig, manifest["model"], where),
            from_dict(FeatureConfig, manifest["features"], where),
            manifest["weights"]["sha256"],
            manifest["opset"],
        )

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path / WEIGHTS

    def network(self) -> AlphaFold:
        """A new network with the weights."""
        model = AlphaFold(self.model)
        load_weights(self.weights, model)
        return model.eval()

    def graphs(self, precision: str, engine: Path) -> Path:
        """The folder of the graphs in ``precision``: the core's, or those that the engine in folder ``engine`` brought along."""
        own = engine / GRAPHS
        return own if own.is_dir() else self.path / GRAPHS / precision

    def need_graphs(self, precision: str, engine: Path, plugins: str = NO_PLUGINS) -> Path:
        """``graphs``, written into the engine's folder where the core has none in this precision, or where they have plugin nodes.

        The core's graphs are always plain.
        """
        folder = self.graphs(precision, engine)
        if folder.is_dir() and plugins == NO_PLUGINS:
            return folder
        (engine / GRAPHS).mkdir()
        write_graphs(self.network(), engine / GRAPHS, precision, self.opset, plugins)
        return engine / GRAPHS


def graph_hashes(folder: Path) -> Mapping[str, str]:
    """Stage -> sha256 of the graphs in a folder, without the weights that they read."""
    return {path.stem: sha256_of(path) for path in sorted(folder.glob("*.onnx"))}


def copy_own_graphs(core: Core, engine: Path, folder: Path) -> None:
    """The graphs that the engine in folder ``engine`` brought along, if it did, into ``folder``, under the weights of ``core``."""
    own = engine / GRAPHS
    if own.is_dir():
        shutil.copytree(own, folder / GRAPHS, ignore=shutil.ignore_patterns(WEIGHTS_FILE))
        write_weights(folder / GRAPHS, read_weights(core.weights)[0])
