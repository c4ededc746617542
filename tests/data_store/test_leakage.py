"""What the report finds between training and held-out chains, on real homologs by the real MMseqs2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.data_store.config import DataConfig
from foldline.data_store.leakage import Leak, Pair, find_leakage
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError

from .homologs import homologs, sequence_record

needs_mmseqs = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed: apt install mmseqs2")


@pytest.fixture(scope="module")
def leaky(records: list[ChainRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A held-out protein with a copy, an entry mate, a cluster mate and homologs among the rest; and strangers."""
    named = {r.metadata.chain_id: r for r in records}
    ubiquitin, other = named["1ubq_A"], named["1tif_A"]
    near, far = homologs(ubiquitin, 0.6, 0.99, 1)[0], named["1nd9_A"].sequence
    path = tmp_path_factory.mktemp("leaky") / "store"
    with StoreWriter(path) as writer:
        writer.add(sequence_record("held", ubiquitin.sequence, pdb_id="1ubq", cluster_id="u"))
        writer.add(sequence_record("copy", ubiquitin.sequence, pdb_id="1abc"))
        writer.add(sequence_record("mate", far, pdb_id="1UBQ"))
        writer.add(sequence_record("kin", named["1ajj_A"].sequence, cluster_id="u"))
        writer.add(sequence_record("homolog", near))
        writer.add(sequence_record("fused", other.sequence + near))
        writer.add(sequence_record("half", other.sequence + ubiquitin.sequence[:45]))
        writer.add(sequence_record("stranger", named["1gcc_A"].sequence, pdb_id="9xyz", cluster_id="s"))
        writer.add(sequence_record("also held", named["1bxy_A"].sequence))
    return path


HELD = DataConfig(validation=("held",), hold_out=("also held",))


@needs_mmseqs
def test_every_kind_is_found_and_nothing_else(leaky: Path) -> None:
    report = find_leakage(Store.open(leaky), HELD, threads=1)
    assert (report.trained, report.held_out, report.skipped) == (7, 2, {})
    sequence, entry, cluster, identity = report.leaks
    assert sequence == Leak("sequence", 1, 1, 1, (Pair("copy", "held"),))
    assert entry == Leak("entry", 1, 1, 1, (Pair("mate", "held"),))
    assert cluster == Leak("cluster", 1, 1, 1, (Pair("kin", "held"),))
    assert (identity.pairs, identity.trained, identity.held_out) == (3, 3, 1)
    assert identity.worst[0].trained == "copy"
    assert {p.trained for p in identity.worst} == {
        "copy",
        "homolog",
        "fused",
    }  # the fusion holds the whole held-out chain, "half" 60 % of it
    assert identity.worst[0] == Pair("copy", "held", 1.0, 1.0)
    assert all(a.identity >= b.identity for a, b in zip(identity.worst, identity.worst[1:], strict=False) if a.identity and b.identity)
    assert [leak.kind for leak in report.forbidden] == ["sequence", "entry", "cluster", "identity"]


def test_pairs_are_counted_by_groups(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        for i in range(5):
            writer.add(sequence_record(f"k{i}", "ACDEFGHIKL"[: 5 + i], cluster_id="k"))
            writer.add(sequence_record(f"m{i}", "MNPQRSTVWY"[: 5 + i], cluster_id="m"))
        writer.add(sequence_record("lone", "WWWWW"))
        writer.add(sequence_record("held lone", "YYYYY"))
    data = DataConfig(hold_out=("k0", "k1", "m4", "held lone"))
    (cluster,) = (leak for leak in find_leakage(Store.open(tmp_path / "store"), data, threads=1).leaks if leak.kind == "cluster")
    assert (cluster.pairs, cluster.trained, cluster.held_out) == (2 * 3 + 1 * 4, 3 + 4, 3)
    assert [pair.held_out for pair in cluster.worst] == ["m4", "k1", "k0"]  # the longest first


@needs_mmseqs
def test_the_command_reports_and_answers_by_its_exit_code(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tmp_path / "run.toml", tmp_path / "report" / "leaks.json"
    arguments = ["store", "leakage", str(leaky), "--config", str(config), "--threads", "1"]
    hold_out = '[data]\nvalidation = ["held"]\nhold_out = ["also held"]\n'
    config.write_text(f"[run]\nsteps = 5\n{hold_out}")
    assert main([*arguments, "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert "7 chains to train on, 2 held out" in told.out
    assert "copy  held  100% identical over 100%" in told.out
    assert "leaks into what is held out (sequence, entry, cluster, identity)" in told.err
    report = json.loads(out.read_text())
    assert report["leaking"] == ["sequence", "entry", "cluster", "identity"]
    assert report["leaks"][0] == {
        "kind": "sequence",
        "pairs": 1,
        "trained": 1,
        "held_out": 1,
        "worst": [{"trained": "copy", "held_out": "held", "identity": None, "coverage": None}],
    }
    assert report["content_hash"] == Store.open(leaky).content_hash

    config.write_text(f'{hold_out}allowed_leaks = ["sequence"]\nhold_out_relatives = true\n')
    assert main(arguments) == 1  # the homolog is in no cluster
    assert "held out (identity)" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    config.write_text(f'{hold_out}allowed_leaks = ["sequence", "entry", "cluster"]\n')
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "(allowed)" in told.out
    assert "not looked for: similar sequence" in told.err


def test_clusters_of_a_file_cure_what_they_show(leaky: Path, tmp_path: Path) -> None:
    clusters = tmp_path / "clusters"
    clusters.write_text("held copy homolog fused half\nmate\nkin\nstranger\nalso\n")
    with pytest.raises(FoldlineError, match=r"does not name 1 of 9 chains of the store, e.g. 'also held'"):
        find_leakage(Store.open(leaky), DataConfig(validation=("held",), clusters=str(clusters)))
    clusters.write_text(
        "".join(f"held\t{m}\n" for m in ("held", "copy", "homolog", "fused", "half"))
        + "".join(f"{m}\t{m}\n" for m in ("mate", "kin", "stranger", "also held"))
    )
    data = DataConfig(validation=("held",), clusters=str(clusters), hold_out_relatives=True)
    report = find_leakage(Store.open(leaky), data, threads=1)
    assert not report.forbidden
    assert report.trained == 3


def test_what_cannot_be_looked_for_is_said(demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with StoreWriter(tmp_path / "store") as writer:
        writer.add(sequence_record("a", "ACDEF"))
        writer.add(sequence_record("b", "GHIKL"))
    report = find_leakage(Store.open(tmp_path / "store"), DataConfig(validation=("a",)))
    assert "apt install mmseqs2" in report.skipped["identity"]
    assert "foldline store cluster" in report.skipped["cluster"]
    assert not report.forbidden


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[run]\nsteps = 1\n", "has no [data] section"),
        ("[data]\nhold_outt = ['a']\n", "unknown key 'hold_outt'; did you mean 'hold_out'?"),
        ("[data]\n", "9 chains to train on and 0 held out leave nothing to compare; set data.validation"),
    ],
)
def test_bad_configs_are_one_message(leaky: Path, tmp_path: Path, config: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text(config)
    assert main(["store", "leakage", str(leaky), "--config", str(tmp_path / "run.toml")]) == 2
    assert message in capsys.readouterr().err
