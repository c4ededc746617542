"""Mistakes at the command line of submit, jobs, cancel and launch: one message with value, rule and way out, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldline.cli import main

TRAIN = ["--", "train", "--config", "run.toml"]
SLURM = ["submit", "--scheduler", "slurm"]
HOST = ["launch", "--ranks-per-node", "1", "--nodes", "1", "--node", "0", "--address", "127.0.0.1"]


@pytest.fixture(autouse=True)
def bare_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a config and broken files, on a host without any scheduler."""
    (tmp_path / "run.toml").write_text('[run]\ndir = "run"\n')
    (tmp_path / "torn.toml").write_text("[job\nscheduler=")
    (tmp_path / "value.toml").write_text("job = 3\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "typed.toml").write_text('[job]\nscheduler = "slurm"\nnodes = "two"\n')
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jobs.json").write_text('{"a": 1}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("FOLDLINE_STATE", str(tmp_path / "state"))
    for name in ("PBS_NODEFILE", "LSB_MCPU_HOSTS", "SLURM_JOB_NODELIST", "FOLDLINE_JOB"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            (["submit", "--scheduler", name, *TRAIN], f"{program} is not on PATH")
            for name, program in (("slurm", "sbatch"), ("pbs", "qsub"))
        ),
        (
            ["submit", "--scheduler", "lsf", *TRAIN],
            "bsub is not on PATH: this host cannot talk to the scheduler; `foldline submit --dry-run`",
        ),
        ([*SLURM, "--", "trian", "--config", "run.toml"], "no command 'trian'; did you mean 'train'?"),
        ([*SLURM, "--", "train", "--confg", "run.toml"], "the following arguments are required: --config"),
        ([*SLURM, "--", "train", "--config", "run.toml", "--fast"], "unrecognized arguments: --fast"),
        ([*SLURM, "--", "jobs"], "jobs is for this host, not for a job"),
        ([*SLURM, "--", "train", "--config", "none.toml"], "none.toml"),
        ([*SLURM, "--defaults", "torn.toml", *TRAIN], "torn.toml is not valid TOML"),
        ([*SLURM, "--defaults", "value.toml", *TRAIN], "value.toml: job = 3 is a value; defaults for jobs stand in a table [job]"),
        ([*SLURM, "--defaults", "binary.toml", *TRAIN], "binary.toml is not valid TOML"),
        ([*SLURM, "--defaults", "typed.toml", *TRAIN], "typed.toml: nodes: input should be a valid integer, not 'two'"),
        ([*SLURM, "--defaults", "broken", *TRAIN], "broken cannot be read"),
        ([*SLURM, "--nodes", "two", *TRAIN], "argument --nodes: invalid int value: 'two'"),
        ([*SLURM, "--nodes", "-2", *TRAIN], "nodes = -2 is below 1"),
        ([*SLURM, "--memory", "lots", *TRAIN], "memory = 'lots' is no size, e.g. 200G"),
        ([*SLURM, "--account", "our group", *TRAIN], "account = 'our group' is more than one word"),
        ([*SLURM, "--extra", "exclusive", *TRAIN], "extra = 'exclusive' is no option, e.g. --exclusive"),
        ([*SLURM, "--activate", 'a "b', *TRAIN], "has an open quotation mark"),
        ([*SLURM, "--mpirun", 'mpirun "-n', *TRAIN], "has an open quotation mark"),
        ([*SLURM, "--mpirun", "mpirun -n {rank}", *TRAIN], "only {ranks}, {ranks_per_node} and {nodes} are filled in"),
        ([*SLURM, "--folder", "file", *TRAIN], "cannot be made"),
        ([*SLURM, "--array", "2", "--", "ingest", "none.csv", "--store", "s"], "none.csv cannot be divided"),
        (["jobs", "--limit", "0"], "--limit 0 at least 1"),
        (["jobs", "--lines", "-1"], "--lines -1 must be at least 0"),
        (["jobs", "--follow"], "--follow needs the id or name"),
        (["cancel", "77"], "no job '77' among those in"),
        ([*HOST, "--port", "99999", "--", "doctor"], "--port 99999 is not within 1 to 65535"),
        ([*HOST[:5], "--", "doctor"], "--nodes, --node, --address and --port go together"),
        ([*HOST, "--port", "9999", "--", "trian"], "no command 'trian'"),
    ],
)
def test_value_rule_and_way_out_are_told(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as end:  # argparse
        code = int(str(end.code))
    assert code == 2
    told = capfd.readouterr().err
    assert words in told
    assert told.startswith(("foldline: ", "usage: "))


@pytest.mark.parametrize(("folder", "words"), [("broken", "is not readable"), ("file", "cannot be written")])
def test_nothing_is_submitted_whose_id_cannot_be_noted(
    folder: str, words: str, bare_site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sbatch = bare_site / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\n: > {bare_site}/asked\necho 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent))
    monkeypatch.setenv("FOLDLINE_STATE", str(bare_site / folder))
    assert main([*SLURM, *TRAIN]) == 2
    assert words in capfd.readouterr().err
    assert not (bare_site / "asked").exists()
    monkeypatch.setenv("FOLDLINE_STATE", str(bare_site / "state"))
    assert main([*SLURM, *TRAIN]) == 0
    assert (bare_site / "asked").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_JOB_NODELIST": "n[a-b]"}, "'n[a-b]' is not of Slurm's form for lists of hosts"),
        ({"PBS_NODEFILE": "none"}, "PBS_NODEFILE = none cannot be read"),
        ({"PET_NODE_RANK": "x", "PET_NNODES": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "Kubeflow left PET_NODE_RANK='x'"),
    ],
)
def test_a_place_that_cannot_be_read(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["launch", "--ranks-per-node", "1", "--", "doctor"]) == 2
    assert words in capfd.readouterr().err
