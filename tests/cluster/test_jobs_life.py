"""Jobs from submission to their end, on strict stand-ins of the schedulers' commands: requeue, resume, warning, chain, array, cancel.

The scripts are run by bash as they are. Most have a program in foldline's place that saves or fails as told; the last ones train.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldline.cluster.jobs import follow, records, submit
from foldline.cluster.jobs.kubernetes import RETRIED, pod_script
from foldline.cluster.jobs.spec import JobSpec
from foldline.cluster.jobs.text import work_of
from foldline.data_store.ingest import ingest
from foldline.data_store.store import Store
from foldline.errors import FoldlineError

from ..trainer.runs import NETWORK
from . import schedulers

# In foldline's place: notes how it was called. A line of "codes" per call: exit code, "save" for a checkpoint, "wait" to be told to stop.
STUB = """#!/bin/bash
echo "$@" >> "$FAKE_QUEUE/calls"
number=$(wc -l < "$FAKE_QUEUE/calls")
read -r code save wait <<< "$(sed -n "${number}p" "$FAKE_QUEUE/codes")"
mkdir -p run; echo {} > run/config.json
[ "$wait" = wait ] && { trap 'kill $!; stopped=1' USR1 TERM; touch "$FAKE_QUEUE/ready"; sleep 60 & wait $!; }
[ "$save" = save ] && { mkdir -p "run/checkpoints/step_$number"; echo {} > "run/checkpoints/step_$number/manifest.json"; }
exit "$code"
"""

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
TRAINING = f"""{NETWORK}
[data]
store = "store"

[validate]
every = 0
trained_chains = 0

[tracking]
mlflow = false

[run]
dir = "run"
steps = 16
checkpoint_every = 4
device = "cpu"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a config, on a host with every scheduler."""
    queue = tmp_path / "queue"
    queue.mkdir()
    schedulers.number_jobs_apart(queue)
    schedulers.install(tmp_path / "bin")
    monkeypatch.setenv("FAKE_QUEUE", str(queue))
    monkeypatch.setattr(schedulers, "STATE", queue)
    monkeypatch.setenv("FOLDLINE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("pbs_tmrsh", "blaunch"):  # of two hosts, both are this one
        program = tmp_path / "bin" / name
        program.write_text('#!/bin/bash\n[ $# -ge 2 ] || exit 255\nshift\nexec "$@"\n')
        program.chmod(0o755)
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    (tmp_path / "bin" / "foldline").write_text(STUB)
    (tmp_path / "bin" / "foldline").chmod(0o755)
    (tmp_path / "activate").write_text("")
    (tmp_path / "nodes").write_text("one\ntwo\n")
    (tmp_path / "run.toml").write_text('[run]\ndir = "run"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def send(site: Path, scheduler: str, *command: str, codes: str = "0", **flags: object) -> str:
    """Submit; the job's id. ``codes``: a line per call of the stub."""
    (site / "queue" / "codes").write_text(codes + "\n")
    given = {"scheduler": scheduler, "activate": str(site / "activate"), **flags}
    assert submit.submit_command(given, None, False, command or ("train", "--config", "run.toml")) == 0
    return records.records()[-1].ids[0]


def surroundings(site: Path, scheduler: str, number: str) -> dict[str, str]:
    """What the scheduler gives a script."""
    return {
        "slurm": {"SLURM_JOB_ID": number},
        "pbs": {"PBS_JOBID": number, "PBS_NODEFILE": str(site / "nodes")},
        "lsf": {"LSB_JOBID": number, "LSB_MCPU_HOSTS": "one 1 two 1 "},
    }[scheduler]


def start(site: Path, scheduler: str, number: str) -> int:
    return schedulers.run(number, surroundings(site, scheduler, number))


def calls(site: Path) -> list[str]:
    path = site / "queue" / "calls"
    return path.read_text().splitlines() if path.exists() else []


def state(number: str) -> str:
    return follow.state_of(records.find(number)).word


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf"])
def test_a_job_is_queued_runs_and_is_done(site: Path, scheduler: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = send(site, scheduler)
    assert state(number) == "queued"
    assert number in capsys.readouterr().out
    assert start(site, scheduler, number) == 0
    assert state(number) == "done"
    (call,) = calls(site)
    assert call.endswith("train --config run.toml"), "a first start has no --resume"
    assert start(site, scheduler, number) == 0
    assert len(calls(site)) == 1, "what is done is not done again"


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf"])
def test_a_lost_rank_is_started_again_from_the_checkpoint(site: Path, scheduler: str) -> None:
    number = send(site, scheduler, codes="69 save\n0")
    assert start(site, scheduler, number) == 69
    again = number
    if scheduler == "pbs":  # submitted anew under another id, which belongs to the same job
        again = follow.numbers(records.find(number))[-1]
        assert again != number
        assert records.find(number).ids == (number,)
    elif scheduler == "lsf":
        assert state(number) == "requeued"
    assert start(site, scheduler, again) == 0
    assert [call.endswith("--resume") for call in calls(site)] == [False, True]
    assert state(number) == "done"


def test_slurm_is_asked_to_requeue_a_running_job_only(site: Path) -> None:
    asked = site / "bin" / "scontrol"
    script = asked.read_text()
    asked.write_text(script.replace("exec", '[ "$1" = requeue ] && { echo "$2" >> "$FAKE_QUEUE/requeued"; exit 1; }\nexec'))
    number = send(site, "slurm", codes="75 save\n75 save")
    assert start(site, "slurm", number) == 75
    assert (site / "queue" / "requeued").read_text() == f"{number}\n"
    follow.cancel_command(number)
    assert state(number) == "cancelled"
    assert start(site, "slurm", number) == 0, "a cancelled job that is started all the same does nothing"
    assert len(calls(site)) == 1


def test_a_start_that_ended_before_its_first_checkpoint_begins_again(site: Path) -> None:
    number = send(site, "lsf", codes="69\n0")
    start(site, "lsf", number)
    assert start(site, "lsf", number) == 0
    assert not any(call.endswith("--resume") for call in calls(site))
    assert len(list(site.glob("run.lost_*/config.json"))) == 1, "what there was is kept, and is not in the way"


def test_a_run_of_somebody_else_is_not_touched(site: Path) -> None:
    (site / "run" / "checkpoints" / "step_9").mkdir(parents=True)
    (site / "run" / "checkpoints" / "step_9" / "manifest.json").write_text("{}")
    number = send(site, "lsf", codes="2")
    assert start(site, "lsf", number) == 2, "train itself refuses: no --resume was added"
    assert not calls(site)[0].endswith("--resume")
    assert state(number) == "failed"
    assert not list(site.glob("run.lost_*"))


def test_starts_without_a_new_checkpoint_come_to_an_end(site: Path) -> None:
    number = send(site, "lsf", codes="69 save\n" + "69\n" * 9)
    codes = [start(site, "lsf", number) for _ in range(6)]
    assert codes == [69, 69, 69, 69, 1, 1]
    assert state(number) == "failed"
    assert "3 starts ended with no new checkpoint" in follow.newest_log(records.find(number)).read_text()


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf"])
def test_a_warning_reaches_the_run_which_saves(site: Path, scheduler: str) -> None:
    number = send(site, scheduler, codes="75 save wait", requeue=False)
    script = schedulers.load(number)["script"]
    # As Slurm's --signal=B: and LSF's -wa do: the signal goes to the batch script alone.
    job = subprocess.Popen(["bash", script], env={**os.environ, **surroundings(site, scheduler, number)})
    deadline = time.monotonic() + 60
    while not (site / "queue" / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 75
    assert (site / "run" / "checkpoints" / "step_1").is_dir()


def test_pbs_warns_itself_before_the_limit(site: Path) -> None:
    number = send(site, "pbs", codes="75 save wait", requeue=False, time="00:01:00", signal_ahead=57)
    assert start(site, "pbs", number) == 75, "3 s after its start the run was told to save"
    assert (site / "run" / "checkpoints" / "step_1").is_dir()


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf"])
def test_a_chain_goes_on_link_by_link_and_ends_with_the_run(site: Path, scheduler: str) -> None:
    first = send(site, scheduler, codes="75 save\n0", chain=3)
    ids = records.records()[-1].ids
    assert len(ids) == 3
    waits = [schedulers.load(number)["options"] for number in ids]
    for before, options in zip(ids, waits[1:], strict=False):
        assert any(
            f"after{'any' if scheduler != 'lsf' else ''}" in v or "ended" in v for values in options.values() for v in values if before in v
        )
    assert [start(site, scheduler, number) for number in ids] == [75, 0, 0]
    assert len(calls(site)) == 2
    assert state(first) == "done"


def test_an_array_of_a_search_covers_all_shards(site: Path) -> None:
    command = ("search", "q.fasta", "--db", "u=u.fa", "--out", "al")
    number = send(site, "slurm", *command, codes="0\n0\n3", array=3)
    for task in range(3):
        schedulers.run(number, {"SLURM_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)})
    assert [call.split("--shard ")[1] for call in calls(site)] == ["0/3", "1/3", "2/3"]
    found = follow.state_of(records.find(number))
    assert (found.word, found.detail) == ("failed", "exit code 3 in 1 of 3 tasks")


def test_an_array_of_an_ingest_is_merged(site: Path) -> None:
    (site / "chains.tsv").write_text("id\tstructure\n" + "".join(f"c{n}\ts{n}.cif\n" for n in range(4)))
    send(site, "lsf", "ingest", "chains.tsv", "--store", "s", codes="0\n0\n0", array=2)
    array, merge = records.records()[-1].ids
    for task in (1, 2):
        schedulers.run(array, {"LSB_JOBID": array, "LSB_JOBINDEX": str(task)})
    assert state(array) == "queued", "its merge is still to come"
    assert schedulers.load(merge)["options"]["w"] == [f"done({array})"]
    schedulers.run(merge, {"LSB_JOBID": merge})
    assert calls(site) == [
        "ingest chains.part-0-of-2.tsv --store s.part-0",
        "ingest chains.part-1-of-2.tsv --store s.part-1",
        "store merge s.part-0 s.part-1 s",
    ]
    assert state(array) == "done"


def test_kubernetes_from_create_to_delete(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"scheduler": "kubernetes", "container": "image", "nodes": 2, "mount": ["data:/data"], "name": "af"}
    command = ("train", "--config", "run.toml", "--set", "run.dir=/data/run")
    submit.submit_command(flags, None, False, command)
    assert state("af") == "queued"
    status = site / "queue" / "af.status"
    for about, expected in (
        ({"active": 2, "ready": 2}, "running"),
        ({"active": 2, "ready": 0, "failed": 2}, "requeued"),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, "done"),
        ({"conditions": [{"type": "Failed", "status": "True", "message": "exit code 2"}]}, "failed"),
    ):
        status.write_text(json.dumps(about))
        assert state("af") == expected
    assert follow.tail(records.find("af"), 5) == ["step 1/2", "step 2/2"]
    with pytest.raises(FoldlineError, match="AlreadyExists"):
        submit.submit_command(flags, None, False, command)
    follow.cancel_command("af")
    assert list((site / "queue").glob("af.*.yaml")) == [], "job and service are gone"
    assert state("af") == "cancelled"


@pytest.mark.parametrize(("kind", "retried"), [("job", 69), ("pytorchjob", 143)])
def test_a_pod_goes_on_where_the_last_one_was(site: Path, kind: str, retried: int) -> None:
    spec = JobSpec("kubernetes", name="af", kind=kind, container="image", nodes=2)
    work = work_of(spec, ["train", "--config", "run.toml", "--set", f"run.dir={site / 'run'}"], site, site)
    (site / "queue" / "codes").write_text("69\n69 save\n0\n0\n")
    (site / "bin" / "getent").write_text("#!/bin/sh\n[ \"$*\" = 'hosts localhost' ]\n")  # the cluster's names, of which there is one
    (site / "bin" / "getent").chmod(0o755)

    def pod(node: int) -> int:
        script = pod_script(spec, work, str(node), "localhost", "1", RETRIED if kind == "pytorchjob" else "")
        return subprocess.run(["bash", "-c", script], check=False, timeout=60).returncode

    assert pod(0) == retried, "the first ends before its first checkpoint"
    assert pod(0) == retried
    assert len(list(site.glob("run.lost_*"))) == 1, "what the first had begun is set aside"
    assert pod(0) == 0
    assert pod(1) == 0
    assert [call.endswith("--resume") for call in calls(site)] == [False, False, True, True]
    assert [call.split("--node ")[1][0] for call in calls(site)] == ["0", "0", "0", "1"]


# Foldline, except that the first ingest of the third part is killed when it has just made its store.
KILLED_ONCE = """#!/bin/bash
echo "$@" >> "$FAKE_QUEUE/calls"
{program} -m foldline.cli "$@" || exit
[[ "$*" == ingest*part-2* ]] && exit 137
exit 0
"""


@pytest.mark.slow
def test_pods_share_an_ingest_and_the_last_one_merges(site: Path) -> None:
    names = sorted(path.name.removesuffix(".pdb.gz") for path in DEMO.glob("*.pdb.gz"))
    rows = [f"{name},{DEMO}/{name}.pdb.gz,{DEMO}/{name}.a3m.gz" for name in names]
    (site / "chains.csv").write_text("id,structure,msas\n\n" + "\n".join(rows) + "\n")
    ingest(site / "chains.csv", site / "alone")
    (site / "bin" / "foldline").write_text(KILLED_ONCE.format(program=sys.executable))
    spec = JobSpec("kubernetes", name="in", container="image", array=3)
    work = work_of(spec, ["ingest", str(site / "chains.csv"), "--store", str(site / "s")], site, site / "in-1")

    def pod(task: int) -> int:
        return subprocess.run(["bash", "-c", pod_script(spec, work, str(task), "", "", "")], check=False, timeout=200).returncode

    assert [pod(task) for task in (1, 2, 0)] == [0, 69, 0]
    assert not (site / "s").exists(), "a part is not noted yet"
    assert [pod(2), pod(2), pod(0)] == [0, 0, 0], "started again it does not ingest what is there; what is over stays as it is"
    assert [call.split()[0] for call in calls(site)] == ["ingest", "ingest", "ingest", "store"]
    assert Store.open(site / "s").content_hash == Store.open(site / "alone").content_hash


def test_a_dry_run_touches_nothing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.submit_command({"scheduler": "pbs", "nodes": 2}, None, True, ("train", "--config", "run.toml")) == 0
    assert "#PBS -l select=2" in capsys.readouterr().out
    assert not (site / "foldline-jobs").exists()
    assert records.records() == []


def test_what_the_scheduler_refuses_is_told(site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FoldlineError, match=r"sbatch refused \(unrecognized option '--nonsense'\)"):
        send(site, "slurm", extra=["--nonsense"])
    with pytest.raises(FoldlineError, match="no job '99'"):
        records.find("99")
    number = send(site, "lsf")
    monkeypatch.setenv("PATH", "/nowhere")
    follow.jobs_command("", False, 10, 20, 1.0, False)
    assert "unknown    bjobs is not on PATH" in capsys.readouterr().out, f"job {number} is listed all the same"
    with pytest.raises(FoldlineError, match="qsub is not on PATH"):
        send(site, "pbs")


def test_jobs_are_listed_followed_and_forgotten_by_nobody(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = send(site, "lsf", codes="69\n0", name="first")
    send(site, "lsf", codes="69\n0", name="second")
    follow.jobs_command("", False, 10, 20, 1.0, False)
    listed = capsys.readouterr().out.splitlines()[-2:]
    assert ["second" in listed[0], "first" in listed[1]] == [True, True]
    start(site, "lsf", number)
    start(site, "lsf", number)
    assert follow.jobs_command("first", True, 10, 20, 0.1, False) == 0
    assert "ended with code 69" in (said := capsys.readouterr().out)
    assert said.splitlines()[-1].startswith(f"foldline: {number} done")
    follow.jobs_command(number, False, 1, 20, 1.0, True)
    assert json.loads(capsys.readouterr().out)["word"] == "done"


def test_many_submissions_at_once_are_all_remembered(site: Path) -> None:
    code = (
        "import sys; from foldline.cluster.jobs.records import Record, remember\n"
        "for n in range(6): remember(Record((f'{sys.argv[1]}-{n}',), 'slurm', 'n', '/f', ('train',), 'now'))"
    )
    several = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(3)]
    assert [each.wait(60) for each in several] == [0] * 3
    assert len({record.ids for record in records.records()}) == 18


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
def test_a_real_training_on_two_hosts_is_stopped_and_goes_on(site: Path, scheduler: str) -> None:
    """Two hosts that are both this one, joined by `foldline launch`: ranks that meet, a warning to the script, a second start, the end."""
    name = socket.gethostname()
    (site / "nodes").write_text(f"{name}\nother\n")
    (site / "bin" / "foldline").unlink()
    (site / "bin" / "foldline").symlink_to(Path(sys.executable).parent / "foldline")
    subprocess.run(["foldline", "ingest", str(DEMO), "--store", "store"], check=True, capture_output=True)
    (site / "run.toml").write_text(TRAINING)
    number = send(site, scheduler, cpus_per_rank=1, nodes=2)
    environment = {**surroundings(site, scheduler, number), "LSB_MCPU_HOSTS": f"{name} 1 other 1", "OMP_NUM_THREADS": "1"}
    script = schedulers.load(number)["script"]
    with subprocess.Popen(["bash", script], env={**os.environ, **environment}) as job:
        deadline = time.monotonic() + 400
        while not list(site.glob("run/checkpoints/step_*/manifest.json")) and time.monotonic() < deadline and job.poll() is None:
            time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)
    log = follow.newest_log(records.find(number)).read_text()
    assert job.returncode == 75, log
    assert "rank 1/2 local 0/1 node 1" in log
    again = follow.numbers(records.find(number))[-1]
    if scheduler == "pbs":
        assert again != number
        environment["PBS_JOBID"] = again
    assert schedulers.run(again, environment) == 0
    log = follow.newest_log(records.find(number)).read_text()
    assert "going on from" in log
    assert state(number) == "done"
    steps = [json.loads(line) for line in (site / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [entry["step"] for entry in steps if entry["kind"] == "train"]
    assert sorted(set(trained)) == list(range(1, 17))
