"""What a run reads and how a chain becomes a training sample: ``DataConfig`` and ``FeatureConfig`` with AF2's values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from ..errors import FoldlineError
from ..settings import nearest

CROP_MODES = ("contiguous", "spatial")
SOURCES = ("experimental", "distillation")
LEAKS = ("sequence", "entry", "cluster", "identity")


@dataclass(frozen=True)
class FeatureConfig:
    """Sizes and probabilities of the features (AF2 supplement 1.2; presets: table 4's initial training and fine-tuning).

    The MSA stack of the network has ``max_msa_clusters + max_templates`` rows. Raises FoldlineError for values out of range.
    """

    PRESETS: ClassVar[dict[str, Callable[[], FeatureConfig]]] = {}

    crop_size: int = 256  # residues of a training sample
    crop_mode: str = "contiguous"  # a window of the sequence; or "spatial": the residues nearest to a random one
    max_msa_clusters: int = 124
    max_extra_msa: int = 1024
    max_templates: int = 4  # 0: no templates
    template_pool: int = 20  # training picks at random among this many best ones (supplement 1.2.3)
    max_recycles: int = 3  # passes after the first; a training step draws 0..max_recycles
    masked_msa_fraction: float = 0.15  # training (supplement 1.2.7)
    inference_masked_msa_fraction: float = 0.0
    mask_uniform_probability: float = 0.1  # what a masked cell becomes; the rest becomes the mask token
    mask_profile_probability: float = 0.1
    mask_same_probability: float = 0.1
    block_delete_fraction: float = 0.3  # of the MSA's depth, per block (Algorithm 1)
    block_delete_count: int = 5  # 0: no block deletion
    clamped_fape_fraction: float = 0.9  # samples whose backbone FAPE is clamped (supplement 1.11.5)
    distillation_max_msa: int = 1000  # rows kept of a distillation entry's MSA (supplement 1.3)
    distillation_min_plddt: float = 50.0  # residues below it are no targets

    def __post_init__(self) -> None:
        _require(
            self.crop_mode in CROP_MODES, "features", "crop_mode", self.crop_mode, f"is not known; {nearest(self.crop_mode, CROP_MODES)}"
        )
        for name in ("crop_size", "max_msa_clusters", "max_extra_msa", "template_pool", "distillation_max_msa"):
            _require(getattr(self, name) >= 1, "features", name, getattr(self, name), "must be at least 1")
        for name in ("max_templates", "max_recycles", "block_delete_count"):
            _require(getattr(self, name) >= 0, "features", name, getattr(self, name), "must be at least 0")
        for name in self.__dataclass_fields__:
            if name.endswith(("_fraction", "_probability")):
                _require(0.0 <= getattr(self, name) <= 1.0, "features", name, getattr(self, name), "must lie between 0 and 1")
        total = self.mask_uniform_probability + self.mask_profile_probability + self.mask_same_probability
        _require(total <= 1.0 + 1e-9, "features", "mask_*_probability", total, "must add up to at most 1")


@dataclass(frozen=True)
class DataConfig:
    """Which chains of which store a run trains on, and how often each comes up (AF2 supplement 1.2.4, 1.2.5).

    Chains pass three gates: the hold-out rules (``validation`` and ``hold_out*``; what they name is never trained on, even where ``train``
    names it too), the filters, and a weight above 0. Rules over dates and methods judge experimental entries alone: a prediction has
    neither. Raises FoldlineError for values out of range or a chain that is both to be trained on and held out.
    """

    store: str = ""
    train: tuple[str, ...] = ()  # chain ids; empty: every chain that is not held out
    validation: tuple[str, ...] = ()  # chain ids that the run folds and scores as it goes
    hold_out: tuple[str, ...] = ()  # further chain ids that are not trained on
    hold_out_file: str = ""  # the same as a file, one chain id a line
    hold_out_clusters: str = ""  # file of cluster ids, or chain ids that stand for their clusters, one a line
    hold_out_after: str = ""  # ISO date: entries released later are held out; those without a date are left out of both sets
    hold_out_relatives: bool = False  # leave out of training what shares a cluster or a PDB entry with a held-out chain
    clusters: str = ""  # file that overrides the store's cluster ids: `foldline store cluster` makes one
    seed: int = 0
    workers: int = 0  # processes that prepare samples; 0: in the training process
    prefetch: int = 2  # batches prepared ahead when there are workers; bounds the samples that wait in memory
    slow_sample_seconds: float = 60.0  # after which a sample that a worker still makes is reported by name
    stuck_sample_seconds: float = 600.0  # after which its worker is killed and another one tries once more
    store_patience: float | None = None  # seconds to wait for a store that cannot be reached; none given: half of run.collective_timeout
    sources: tuple[str, ...] = ()  # "experimental", "distillation"; empty: both
    methods: tuple[str, ...] = ()  # of experiments, e.g. "X-RAY DIFFRACTION"; empty: all
    released_from: str = ""  # ISO dates, both inclusive
    released_until: str = ""
    min_length: int = 1  # residues
    max_length: int = 0  # 0: no limit
    max_resolution: float = 9.0  # ångström; chains whose resolution is unknown pass
    max_single_residue: float = 0.8  # share of the most frequent residue type
    distillation_fraction: float | None = None  # share of distillation samples; none given: AF2's 0.75 where there are both kinds
    leakage_identity: float = 0.4  # a training chain this similar to a held-out one leaks
    allowed_leaks: tuple[str, ...] = ()  # what `foldline store leakage` may find: "sequence", "entry", "cluster", "identity"

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "data", "seed", self.seed, "must be at least 0")
        _require(self.workers >= 0, "data", "workers", self.workers, "must be at least 0")
        _require(self.prefetch >= 1, "data", "prefetch", self.prefetch, "must be at least 1")
        slow, stuck = self.slow_sample_seconds, self.stuck_sample_seconds
        _require(slow > 0, "data", "slow_sample_seconds", slow, "must be above 0")
        _require(stuck > slow, "data", "stuck_sample_seconds", stuck, f"must be above data.slow_sample_seconds = {slow}")
        waits = self.store_patience
        _require(waits is None or waits >= 0, "data", "store_patience", waits, "is negative; 0 ends the run at the first failure")
        _require(self.max_resolution > 0, "data", "max_resolution", self.max_resolution, "must be above 0 ångström")
        _require(self.min_length >= 1, "data", "min_length", self.min_length, "must be at least 1 residue")
        fits = self.max_length == 0 or self.max_length >= self.min_length
        _require(fits, "data", "max_length", self.max_length, f"must be 0 (no limit) or at least data.min_length = {self.min_length}")
        for name in ("max_single_residue", "distillation_fraction", "leakage_identity"):
            value = getattr(self, name)
            _require(value is None or 0.0 <= value <= 1.0, "data", name, value, "must lie between 0 and 1")
        for name in ("hold_out_after", "released_from", "released_until"):
            _require(_is_date(getattr(self, name)), "data", name, getattr(self, name), "is not a date like 2018-04-30")
        fits = not (self.released_from and self.released_until) or self.released_from <= self.released_until
        _require(fits, "data", "released_from", self.released_from, f"is later than data.released_until = {self.released_until}")
        for name, valid in (("sources", SOURCES), ("allowed_leaks", LEAKS)):
            for value in getattr(self, name):
                _require(value in valid, "data", name, value, f"is not known; {nearest(value, valid)}")
        for name in ("validation", "hold_out"):
            both = sorted(set(self.train) & set(getattr(self, name)))
            _require(not both, "data", f"train and {name}", both, "share chains; take them out of one of the two lists")


def _is_date(text: str) -> bool:
    try:
        return text == "" or date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _require(holds: bool, section: str, name: str, value: object, rule: str) -> None:
    if not holds:
        raise FoldlineError(f"{section}.{name} = {value} {rule}")


def initial() -> FeatureConfig:
    """AF2's initial training: crop 256, 124 clusters + 4 templates, 1,024 extra rows."""
    return FeatureConfig()


def finetune() -> FeatureConfig:
    """AF2's fine-tuning: crop 384, 508 clusters + 4 templates, 5,120 extra rows."""
    return FeatureConfig(crop_size=384, max_msa_clusters=508, max_extra_msa=5120)


FeatureConfig.PRESETS.update(initial=initial, finetune=finetune)
