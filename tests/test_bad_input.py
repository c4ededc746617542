"""Bad input at the command line, over all commands: exit code 2, one message that names the value and the way out, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldline.cli import main
from foldline.data_store.fold_input import read_fold_input
from foldline.data_store.mmseqs import _run
from foldline.errors import FoldlineError
from foldline.settings import from_dict
from foldline.trainer.config import OptimConfig

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "demo"

# "{file}" is a file of text, "{folder}" an empty folder, "{new}" a path where nothing is, "{fasta}" a sequence.
CASES = {
    "search threads": ("search {fasta} --db u={fasta} --out {new} --threads 0", "--threads 0: at least one must search"),
    "search timeout": ("search {fasta} --db u={fasta} --out {new} --timeout -3", "--timeout -3 must be above 0"),
    "search memory": ("search {fasta} --db u={fasta} --out {new} --memory -1", "--memory -1 must be at least 0 GiB"),
    "ingest into S3": (f"ingest {DEMO} --store s3://bucket/store", "s3://bucket/store: a store is made as a folder"),
    "ingest into a zip": (f"ingest {DEMO} --store {{new}}.zip", "foldline store copy FOLDER"),
    "ingest report": (f"ingest {DEMO} --store {{new}} --report {{file}}", "is a file; give --report a folder"),
    "empty manifest": ("ingest {manifest} --store {new}", "lists no entry"),
    "cut zip": ("store ls {zip}", "is no whole zip file, so restore it from a copy"),
    "merge into S3": ("store merge {folder} {folder} s3://bucket/store", "a store is made as a folder"),
    "split seed": ("store split {folder} {new}1 {new}2 --share 0.5 --seed -1", "--seed -1 must be at least 0"),
    "cluster out": ("store cluster {folder} --out {folder}", "cannot be written: Is a directory"),
    "leakage out": ("store leakage {folder} --config {data} --out /proc/nowhere/x", "cannot be written: No such file or directory"),
    "config folder": ("store leakage {folder} --config {folder}", "cannot be read"),
    "train restarts": ("train --config {file} --launcher mpi --max-restarts -1", "--max-restarts -1 must be at least 0"),
    "train infinite": (
        f"train --config {ROOT}/examples/demo.toml --set optim.lr=inf --launcher mpi",
        "optim.lr = inf; give a finite number",
    ),
    "train seed": (f"train --config {ROOT}/examples/demo.toml --set run.seed=-1 --launcher mpi", "run.seed = -1 is negative"),
    "model sizes": (
        f"plan --config {ROOT}/examples/demo.toml --set model.c_m=0 --set model.evoformer.blocks=-1",
        "model.c_m = 0 must be at least 1; model.evoformer.blocks = -1 is negative",
    ),
    "validate step": ("validate --run {run} --checkpoint 77", "has no checkpoint of that step; it has none"),
    "profile out": (f"profile --config {ROOT}/examples/demo.toml --out /proc/nowhere", "cannot be written: No such file or directory"),
    "runs database": ("runs --uri sqlite:///{new}/mlflow.db", "there is no database"),
    "fold out": ("fold {fasta} --bundle {folder} --out {file}", "is a file; give --out a folder"),
    "export threads": ("export --run {folder} --out {new} --set export.threads=-1", "export.threads = -1 must be at least 0"),
    "weights": ("weights import {new} --preset model_1 --out {new}2", "give the file that was downloaded"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    names = {name: tmp_path / name for name in ("file", "folder", "new", "fasta", "manifest", "zip", "data", "run")}
    names |= {"manifest": tmp_path / "m.csv", "zip": tmp_path / "cut.zip", "data": tmp_path / "data.toml"}
    names["file"].write_text("text\n")
    names["folder"].mkdir()
    names["fasta"].write_text(">q\nMKTAYIAKQR\n")
    names["manifest"].write_text("id,structure\n")
    names["zip"].write_bytes(b"PK\x03\x04cut")
    names["run"].mkdir()
    (names["run"] / "config.json").write_text("{}")
    names["data"].write_text('[data]\nstore = "x"\n')
    before = sorted(tmp_path.rglob("*"))
    assert main([word.format(**names) for word in command.split()]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("foldline: ")
    assert message in told[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_too_long_for_a_file_costs_no_other_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta = tmp_path / "q.fasta"
    fasta.write_text(f">{'a' * 300}\nMKTAYIAKQR\n>q\nMKTAYIAKQR\n")
    assert main(["search", str(fasta), "--db", f"u={fasta}", "--out", str(tmp_path / "out")]) == 1
    assert "its name has 300 letters, and at most 200" in capsys.readouterr().err
    assert (tmp_path / "out" / "q" / "u_hits.a3m").is_file()


@pytest.mark.parametrize("name", ["..", "../../x", "a" * 300])
def test_a_folded_protein_never_names_a_folder_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "two.fasta").write_text(f">{name}\nMKTAYIAKQR\n>q\nMKTAYIAKQR\n")
    with pytest.raises(FoldlineError, match="cannot name a folder; at most 200 letters and no dot in front"):
        read_fold_input(tmp_path / "two.fasta")


def test_mmseqs_is_not_asked_for_a_negative_number_of_threads() -> None:
    with pytest.raises(FoldlineError, match="--threads -3 must be at least 0"):
        _run(["mmseqs"], -3)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_of_a_config_are_finite(value: float) -> None:
    with pytest.raises(FoldlineError, match=r"here: lr = (inf|nan); give a finite number"):
        from_dict(OptimConfig, {"lr": value}, "here")
