"""Clusters of real homologs by the real MMseqs2, and the files that carry clusters."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from foldline.cli import main
from foldline.data_store.chain_clusters import COVERAGE, cluster_store, read_cluster_file, with_clusters
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.data_store.sampler import open_order
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError

from .chain_cases import chain, distilled, table
from .homologs import homologs, sequence_record

needs_mmseqs = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed: apt install mmseqs2")


@pytest.fixture(scope="module")
def families(records: list[ChainRecord]) -> dict[str, list[str]]:
    """Three real proteins: the sequence, a construct of it that was cut short, and homologs at least 60 % identical to it."""
    named = {r.metadata.chain_id: r for r in records}
    chosen = {name: named[name] for name in ("1ubq_A", "1tif_A", "1nd9_A")}
    return {name: [r.sequence, r.sequence[5:-4], *homologs(r, 0.6, 1.0, 3)] for name, r in chosen.items()}


@pytest.fixture(scope="module")
def family_store(families: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The families, under ids that a FASTA parser would cut or take for a database's."""
    path = tmp_path_factory.mktemp("families") / "store"
    with StoreWriter(path) as writer:
        for name, sequences in families.items():
            for i, sequence in enumerate(sequences):
                writer.add(sequence_record(f"sp|{name}|copy {i}", sequence))
        for name in ("tiny", "tiny too"):
            writer.add(sequence_record(name, "ACDEF"))
    return path


@needs_mmseqs
def test_clusters_are_the_families(family_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "clusters.tsv"
    assert main(["store", "cluster", str(family_store), "--out", str(out), "--threads", "1"]) == 0
    clusters = read_cluster_file(out)
    assert clusters.keys() == set(Store.open(family_store).chain_ids)  # each chain once, those too short to search for too
    groups = {c: {m.split("|")[1] for m in clusters if "|" in m and clusters[m] == c} for c in clusters.values()}
    assert [len(families) for families in groups.values()].count(1) == 3
    assert sum(map(len, groups.values())) == 3  # a family is one cluster and a cluster one family
    told = capsys.readouterr().out
    assert f"{len(clusters)} chains in 4 clusters at 40% identity" in told
    assert str(out) in told
    assert not list(out.parent.glob(".*"))

    order = open_order(family_store, DataConfig(clusters=str(out)), FeatureConfig())
    weights = dict(zip(order.chain_ids, np.diff(order.cumulative, prepend=0.0), strict=True))
    for name in ("1ubq_A", "1tif_A", "1nd9_A", "tiny"):
        assert sum(w for member, w in weights.items() if name in member) == pytest.approx(0.25)


@pytest.mark.slow
@needs_mmseqs
def test_a_strict_limit_parts_what_a_loose_one_joins(family_store: Path, tmp_path: Path) -> None:
    cluster_store(family_store, tmp_path / "c.tsv", 1.0, COVERAGE, threads=1)
    assert len(set(read_cluster_file(tmp_path / "c.tsv").values())) > 4


@needs_mmseqs
def test_chains_too_short_for_mmseqs_are_clusters_of_their_copies(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        for i, sequence in enumerate(("ACDEF", "GHIKL", "ACDEF")):
            writer.add(sequence_record(f"c{i}", sequence))
    cluster_store(tmp_path / "store", tmp_path / "c.tsv", 0.4, COVERAGE, threads=1)
    assert read_cluster_file(tmp_path / "c.tsv") == {"c0": "c0", "c2": "c0", "c1": "c1"}


def test_without_mmseqs_the_error_says_what_to_install(demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FoldlineError, match=r"foldline store cluster needs the program 'mmseqs'.*apt install mmseqs2.*conda install"):
        cluster_store(demo_store, tmp_path / "out.tsv", 0.4, COVERAGE, threads=1)
    assert not list(tmp_path.iterdir())


def test_a_failure_of_mmseqs_is_told_and_leaves_nothing(demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "mmseqs"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no space left'; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    with pytest.raises(FoldlineError, match=r"(?s)easy-cluster ended with exit code 3; it said:\nno space left"):
        cluster_store(demo_store, tmp_path / "out.tsv", 0.4, COVERAGE, threads=1)
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]


def test_limits_outside_0_and_1_are_refused(demo_store: Path, tmp_path: Path) -> None:
    with pytest.raises(FoldlineError, match=r"--identity 40.0 must lie between 0 and 1"):
        cluster_store(demo_store, tmp_path / "out.tsv", 40.0, COVERAGE, threads=1)


class TestFiles:
    def test_both_forms_name_the_same_clusters(self, tmp_path: Path) -> None:
        pairs, lines = tmp_path / "pairs.tsv", tmp_path / "lines.txt"
        pairs.write_text("a\ta\na\tb c\nd\td\n\n")
        lines.write_text("a b\r\n\nd \n")
        assert read_cluster_file(pairs) == {"a": "a", "b c": "a", "d": "d"}
        assert read_cluster_file(lines) == {"a": "a", "b": "a", "d": "d"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\tb\na b\n", r"line 2 is not 'representative<tab>member'"),
            ("a\tb\tc\n", r"line 1 is not 'representative<tab>member'"),
            ("a\t\n", r"line 1 is not 'representative<tab>member'"),
            ("a b\nc b\n", r"line 2 puts chain 'b' into a second cluster"),
            ("a\tb\nc\tb\n", r"line 2 puts chain 'b' into a second cluster"),
        ],
    )
    def test_what_is_no_partition_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "clusters"
        path.write_text(text)
        with pytest.raises(FoldlineError, match=message):
            read_cluster_file(path)

    def test_a_missing_file_and_binary_noise_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match=r"data.clusters = .* cannot be read .*foldline store cluster"):
            read_cluster_file(tmp_path / "missing")
        (tmp_path / "noise").write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(FoldlineError, match=r"cannot be read"):
            read_cluster_file(tmp_path / "noise")

    def test_a_file_overrides_the_store_and_must_name_experimental_entries(self, tmp_path: Path) -> None:
        path = tmp_path / "clusters"
        path.write_text("a b\n")
        chains = table(chain("a", cluster_id="old"), chain("b"), distilled("d", cluster_id="old"))
        assert with_clusters(chains, str(path)).cluster_id.tolist() == ["a", "a", ""]
        assert with_clusters(chains, "") is chains
        with pytest.raises(FoldlineError, match=r"does not name 1 of 3 chains of the store, e.g. 'A' \(it names 2, e.g. 'a'\)"):
            with_clusters(table(chain("a"), chain("b"), chain("A")), str(path))
