"""Jobs on a real Slurm: a training on two nodes through cancelling, a lost node, a warning before the limit and pre-emption; an array."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from foldline.data_store.ingest import ingest
from foldline.data_store.store import Store

from ..trainer.runs import ROOT, command, write_config
from .slurm_cluster import SlurmCluster, slurm_cluster, wait

pytestmark = pytest.mark.slow

STEPS, EVERY = 40, 4
OVERRIDES = [
    f"run.steps={STEPS}",
    f"run.checkpoint_every={EVERY}",
    "run.keep_last=20",
    "run.collective_timeout=120",  # a busy machine holds a rank back for long
]
PATIENCE = 400.0  # seconds for a start under load
ON_ITS_WAY = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")  # Slurm's words; asking it costs less than `foldline jobs`


@dataclass
class Site:
    """A cluster, and a user on its login node."""

    slurm: SlurmCluster
    folder: Path
    store: Path

    def foldline(self, *arguments: str, cwd: Path | None = None) -> str:
        """What the command line prints; it must succeed."""
        environment = os.environ | self.slurm.environment | {"FOLDLINE_STATE": str(self.folder / "state"), "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-m", "foldline.cli", *arguments]
        done = subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(self, name: str, *flags: str) -> Job:
        """Submit a training on two nodes with a directory of its own."""
        (self.folder / name).mkdir()
        config = write_config(self.folder / name, self.store)
        train = ["train", "--config", str(config), *(f"--set={each}" for each in OVERRIDES)]
        return self.submit(name, "--nodes=2", "--cpus-per-rank=1", "--time=00:30", *flags, "--", *train)

    def submit(self, name: str, *arguments: str) -> Job:
        """``foldline submit`` in the directory ``name``."""
        where = self.folder / name
        printed = self.foldline("submit", "--scheduler=slurm", f"--name={name}", *arguments, cwd=where)
        return Job(self, printed.split()[0], where)


@dataclass
class Job:
    """A submitted job. ``where`` is the directory that it was submitted in."""

    site: Site
    number: str
    where: Path

    @property
    def run(self) -> Path:
        return self.where / "run"

    @property
    def log(self) -> str:
        """Everything its scripts and ranks have printed."""
        return "\n".join(path.read_text() for path in sorted(self.where.glob("foldline-jobs/*/log-*.txt")))

    @property
    def word(self) -> str:
        """What ``foldline jobs`` says of it."""
        return str(json.loads(self.site.foldline("jobs", self.number, "--json"))["word"])

    def checkpoint(self, step: int) -> Path:
        return self.run / "checkpoints" / f"step_{step:08d}"

    def until_step(self, step: int) -> None:
        """Wait for the checkpoint of ``step``; the job must be far from its end then."""
        self.until(lambda: (self.checkpoint(step) / "manifest.json").exists(), f"no checkpoint of step {step}")
        assert not self.checkpoint(STEPS).exists(), "the run was over before it was disturbed"

    def until_done(self) -> None:
        """Wait for the end, without the pause that Slurm puts before a second start."""

        def over() -> bool:
            self.site.slurm.start_now(self.number)
            return self.site.slurm.state(self.number) not in ON_ITS_WAY and self.word not in ("queued", "running", "requeued")

        self.until(over, "the job does not end")
        assert self.word == "done", self.log

    def until(self, holds: Callable[[], bool], message: str) -> None:
        try:
            wait(holds, message, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.site.slurm.state(self.number)}; its log: {self.log[-4000:]}") from None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "slurm").mkdir()
    with slurm_cluster(folder / "slurm", 3) as cluster:
        ingest(ROOT / "examples" / "demo", folder / "store")
        yield Site(cluster, folder, folder / "store")


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> Path:
    """The same run on two ranks of mpirun, without any scheduler."""
    (site.folder / "whole").mkdir()
    config = write_config(site.folder / "whole", site.store)
    done = subprocess.run(command(config, overrides=OVERRIDES), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return site.folder / "whole" / "run"


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("model", "ema", "rank_00000", "rank_00001"):  # Adam's moments are in the ranks' files
        mine, theirs = (load_file(run / "checkpoints" / f"step_{STEPS:08d}" / f"{name}.safetensors") for run in (one, other))
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not mine[key].equal(theirs[key])] == []


def test_two_nodes_train_to_the_same_bits(site: Site, undisturbed: Path) -> None:
    job = site.train("plain")
    job.until_step(EVERY)
    assert job.word == "running"
    job.until_done()
    assert "rank 0/2 local 0/1 node 0" in job.log
    assert "node 1" in job.log
    assert_same_weights(undisturbed, job.run)
    assert job.number in site.foldline("jobs")
    assert "ended with code 0" in site.foldline("jobs", job.number, "--follow")


def test_a_cancelled_job_ends_and_keeps_what_it_saved(site: Site) -> None:
    job = site.train("cancelled")
    job.until_step(EVERY)
    assert f"cancelled {job.number}" in site.foldline("cancel", job.number)
    job.until(lambda: site.slurm.state(job.number) == "CANCELLED", "the job goes on")
    assert job.word == "cancelled"
    job.until(lambda: not processes_of(job.run), "processes of a cancelled job go on")
    assert (job.checkpoint(EVERY) / "manifest.json").exists()


def test_a_lost_node_costs_no_more_than_the_steps_since_the_checkpoint(site: Site, undisturbed: Path) -> None:
    """The host dies and is taken out: Slurm starts the job again on the nodes that are left, and it goes on from its checkpoint."""
    job = site.train("lost")
    job.until_step(EVERY)
    node = site.slurm.told(job.number, "NodeList").replace("n[", "").rstrip("]").replace("-", ",").split(",")[-1].removeprefix("n")
    site.slurm.kill_node(f"n{node}")
    site.slurm.ask("scontrol", "update", f"nodename=n{node}", "state=down", "reason=test")
    try:
        job.until_done()
    finally:
        site.slurm.start_node(f"n{node}")
        site.slurm.ask("scontrol", "update", f"nodename=n{node}", "state=resume")
    assert int(site.slurm.told(job.number, "Restarts")) >= 1
    assert "going on from" in job.log
    assert_same_weights(undisturbed, job.run)


def test_a_warning_ahead_of_the_limit_saves_and_requeues(site: Site, undisturbed: Path) -> None:
    """What ``--signal-ahead`` has Slurm do: SIGUSR1 to the script. The job saves, ends with 75 and is queued again."""
    job = site.train("warned")
    job.until_step(EVERY)
    site.slurm.ask("scancel", "--batch", "--signal=USR1", job.number)
    job.until(lambda: site.slurm.state(job.number) == "PENDING", "the job is not queued again")
    assert job.word == "requeued"
    job.until_done()
    assert "told to stop; saving" in job.log
    assert "ended with code 75" in job.log
    assert int(site.slurm.told(job.number, "Restarts")) == 1
    assert_same_weights(undisturbed, job.run)


def test_a_pre_empted_job_goes_on_afterwards(site: Site, undisturbed: Path) -> None:
    """A job of a more urgent partition takes the nodes; ours is queued again and ends with the same weights."""
    job = site.train("preempted")
    job.until_step(EVERY)
    (site.folder / "urgent.sh").write_text("#!/bin/bash\nsleep 3\n")
    output = site.folder / "urgent.txt"
    urgent = site.slurm.ask("sbatch", "--parsable", "-p", "urgent", "-N3", "-n6", "-o", str(output), str(site.folder / "urgent.sh")).strip()
    job.until(lambda: site.slurm.state(urgent) == "COMPLETED", "the urgent job does not get the nodes")
    job.until_done()
    assert int(site.slurm.told(job.number, "Restarts")) == 1
    assert_same_weights(undisturbed, job.run)


def test_a_chain_goes_on_where_the_limit_has_ended_a_link(site: Site, undisturbed: Path) -> None:
    """Three jobs that follow each other; each but the last is stopped as by its time limit."""
    job = site.train("chained", "--chain=3")
    links = json.loads(site.foldline("jobs", job.number, "--json"))["ids"]
    assert len(links) == 3
    for link, step in zip(links[:2], (EVERY, 3 * EVERY), strict=True):
        job.until_step(step)
        site.slurm.ask("scancel", "--batch", "--signal=USR1", link)
        job.until(lambda link=link: site.slurm.state(link) not in ("RUNNING", "COMPLETING"), "the link does not end")
    job.until(lambda: site.slurm.state(links[2]) not in ("PENDING", "RUNNING", "COMPLETING"), "the last link does not end")
    assert job.word == "done", job.log
    assert job.log.count("ended with code 75") == 2
    assert_same_weights(undisturbed, job.run)


def test_an_array_ingests_what_one_process_ingests(site: Site) -> None:
    where, demo = site.folder / "array", ROOT / "examples" / "demo"
    where.mkdir()
    rows = [
        f"{path.name.removesuffix('.pdb.gz')},{path},{demo / path.name.replace('.pdb.', '.a3m.')}" for path in sorted(demo.glob("*.pdb.gz"))
    ]
    (where / "chains.csv").write_text("\n".join(["id,structure,msas", *rows]) + "\n")
    ingest(where / "chains.csv", where / "alone")
    job = site.submit("array", "--array=3", "--time=00:20", "--", "ingest", "chains.csv", "--store", "shared")
    job.until(lambda: job.word not in ("queued", "running", "requeued"), "the array does not end")
    assert job.word == "done", job.log
    assert Store.open(where / "shared").content_hash == Store.open(where / "alone").content_hash


def processes_of(run: Path) -> list[int]:
    """Ranks whose command line or directory names ``run``'s config."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(run.parent / "config.toml") in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
