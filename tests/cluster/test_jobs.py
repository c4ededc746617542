"""Job texts: golden files for every scheduler, options that they know, schemas, and mistakes that are told before anything is sent.

The golden files are written anew by ``GOLDEN=write pytest tests/cluster/test_jobs.py``; look at the difference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from foldline.cluster.jobs.arguments import LISTS, OPTIONS
from foldline.cluster.jobs.kubernetes import manifests
from foldline.cluster.jobs.script import Work
from foldline.cluster.jobs.shards import divide_table, shard
from foldline.cluster.jobs.spec import JobSpec, resolve
from foldline.cluster.jobs.text import job_text, run_directory, work_of
from foldline.errors import FoldlineError

from . import schedulers

GOLDEN = Path(__file__).parent / "golden"
TRAIN = Work(("train", "--config", "run.toml"), ("foldline",), "/proj/af", "/proj/af/foldline-jobs/af-1", run_dir="runs/af")
PODS = replace(TRAIN, run_dir="/proj/runs/af")
SEARCH = Work(
    ("search", "q.fasta", "--db", "u=u.fa", "--out", "al"),
    ("foldline",),
    "/proj/af",
    "/proj/af/jobs/s-1",
    task_arguments='--shard "$task/8"',
)
INGEST = Work(
    ("ingest", "--workers", "4"),
    ("foldline",),
    "/proj/af",
    "/proj/af/jobs/i-1",
    shards=(("raw a", "--store", "s.part-0"), ("raw-b", "--store", "s.part-1")),
)
POD_INGEST = replace(
    INGEST,
    shards=(("/proj/c.part-0-of-2.tsv", "--store", "/proj/s.part-0"), ("/proj/c.part-1-of-2.tsv", "--store", "/proj/s.part-1")),
    merge=("store", "merge", "/proj/s.part-0", "/proj/s.part-1", "/proj/s"),
    table="/proj/c.tsv",
)
LARGE = JobSpec(
    "slurm",
    name="af",
    nodes=4,
    gpus_per_node=8,
    cpus_per_rank=12,
    memory="900G",
    time="1-00:00",
    account="bio",
    partition="gpu",
    extra=("--exclusive",),
    module=("cuda/12.4",),
    activate="/proj/venv/bin/activate",
    environment=("NCCL_DEBUG=WARN", "NOTE=two words"),
)
SMALL = JobSpec("slurm", name="af")
ARRAY = JobSpec("slurm", name="s", array=8, time="12:00:00", activate="/proj/venv/bin/activate")
IMAGE = JobSpec(
    "kubernetes", name="af", nodes=2, gpus_per_node=8, cpus_per_rank=8, memory="500Gi", container="reg/foldline:1", mount=("data:/proj",)
)
CASES: dict[str, tuple[JobSpec, Work]] = {
    "slurm_large.sh": (LARGE, TRAIN),
    "slurm_small.sh": (SMALL, TRAIN),
    "slurm_chain_apptainer.sh": (replace(LARGE, chain=3, extra=(), container="/img/f.sif", mount=("/data:/data",)), TRAIN),
    "slurm_pyxis.sh": (replace(LARGE, container="reg#foldline:1", container_runtime="pyxis", mount=("/data:/data",), module=()), TRAIN),
    "slurm_mpirun.sh": (replace(LARGE, mpirun="mpirun -n {ranks} --map-by ppr:{ranks_per_node}:node", extra=()), TRAIN),
    "slurm_array.sh": (ARRAY, SEARCH),
    "slurm_ingest.sh": (replace(ARRAY, array=2), INGEST),
    "pbs_large.sh": (replace(LARGE, scheduler="pbs", extra=()), TRAIN),
    "pbs_small.sh": (replace(SMALL, scheduler="pbs"), TRAIN),
    "pbs_chain.sh": (replace(LARGE, scheduler="pbs", chain=2, extra=(), container="/img/f.sif"), TRAIN),
    "pbs_mpiexec.sh": (replace(LARGE, scheduler="pbs", extra=(), mpirun="mpiexec -n {ranks} --ppn {ranks_per_node}"), TRAIN),
    "pbs_array.sh": (replace(ARRAY, scheduler="pbs"), SEARCH),
    "lsf_large.sh": (replace(LARGE, scheduler="lsf", extra=()), TRAIN),
    "lsf_small.sh": (replace(SMALL, scheduler="lsf"), TRAIN),
    "lsf_array.sh": (replace(ARRAY, scheduler="lsf"), SEARCH),
    "kubernetes_job.yaml": (replace(IMAGE, time="24:00:00", environment=("NCCL_DEBUG=WARN",)), PODS),
    "kubernetes_small.yaml": (replace(IMAGE, nodes=1, gpus_per_node=0, mount=(), requeue=False), PODS),
    "kubernetes_array.yaml": (replace(IMAGE, nodes=1, gpus_per_node=0, array=8), SEARCH),
    "kubernetes_ingest.yaml": (replace(IMAGE, nodes=1, gpus_per_node=0, array=2), POD_INGEST),
    "kubernetes_jobset.yaml": (replace(IMAGE, kind="jobset"), PODS),
    "kubernetes_pytorchjob.yaml": (replace(IMAGE, kind="pytorchjob"), PODS),
    "kubernetes_trainjob.yaml": (replace(IMAGE, kind="trainjob"), PODS),
}
SCRIPTS = [name for name in CASES if name.endswith(".sh")]


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_golden_one(name: str) -> None:
    text = job_text(*CASES[name])
    if os.environ.get("GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_there_is_no_golden_file_without_a_case() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scheduler_knows_every_option(name: str) -> None:
    mark, known, dashes = {
        "slurm": ("SBATCH", schedulers.SBATCH, "--"),
        "pbs": ("PBS", schedulers.QSUB, "-"),
        "lsf": ("BSUB", schedulers.BSUB, "-"),
    }[name.split("_")[0]]
    options, rest = schedulers.parse(schedulers.directives((GOLDEN / name).read_text(), mark), known, dashes)
    assert len(options) > 4
    assert rest == []


def test_the_strict_readers_refuse(tmp_path: Path) -> None:
    for words in (["--nodez=2"], ["--nodes=two"], ["--requeue=yes"], ["--time=90"]):
        with pytest.raises(SystemExit):
            schedulers.parse(words, schedulers.SBATCH, "--")
    with pytest.raises(SystemExit):
        schedulers.directives("#!/bin/bash\n#SBATCH --nodes=1\n\ncd /\n#SBATCH --time=1:00:00\n", "SBATCH")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shell_can_read_it(name: str) -> None:
    subprocess.run(["bash", "-n", str(GOLDEN / name)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("bash reads it; shellcheck is not installed")
    found = subprocess.run(
        ["shellcheck", "--severity=warning", "--exclude=SC1091", str(GOLDEN / name)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("kubernetes")])
def test_what_pods_run_the_shell_can_read(name: str, tmp_path: Path) -> None:
    for text in _arguments(list(yaml.safe_load_all((GOLDEN / name).read_text()))):
        (tmp_path / "pod.sh").write_text("#!/bin/bash\n" + text)
        subprocess.run(["bash", "-n", str(tmp_path / "pod.sh")], check=True)
        if shutil.which("shellcheck"):
            found = subprocess.run(
                ["shellcheck", "--severity=warning", str(tmp_path / "pod.sh")], capture_output=True, text=True, check=False
            )
            assert found.returncode == 0, found.stdout


def _arguments(node: object) -> list[str]:
    if isinstance(node, list):
        return [text for item in node for text in _arguments(item)]
    if isinstance(node, dict):
        return [*node.get("args", []), *(text for item in node.values() for text in _arguments(item))]
    return []


@pytest.mark.parametrize("name", ["kubernetes_job.yaml", "kubernetes_small.yaml", "kubernetes_array.yaml", "kubernetes_ingest.yaml"])
def test_jobs_and_services_satisfy_the_schema(name: str) -> None:
    import kubernetes_validate

    for document in yaml.safe_load_all((GOLDEN / name).read_text()):
        kubernetes_validate.validate(document, "1.30", strict=True)
    document["spec"]["completionz"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_a_service_gives_the_first_pod_its_name() -> None:
    service, job = manifests(*CASES["kubernetes_job.yaml"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert 'address="af-0.af"' in job["spec"]["template"]["spec"]["containers"][0]["args"][0]


def test_the_pods_of_each_kind_satisfy_the_schema_and_have_the_operators_names() -> None:
    """The pods by Kubernetes' schema; a PyTorchJob has none here and is held to its document."""
    import kubernetes_validate

    def pod(template: dict) -> None:
        spec = {"restartPolicy": "Never", **template}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": {"spec": spec}}}
        kubernetes_validate.validate(job, "1.30", strict=True)

    (jobset,) = manifests(*CASES["kubernetes_jobset.yaml"])
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **replicated["template"]}
    kubernetes_validate.validate(inner, "1.30", strict=True)
    assert "subdomain" not in inner["spec"]["template"]["spec"], "JobSet refuses or overwrites it"
    assert 'address="af-node-0-0.af"' in inner["spec"]["template"]["spec"]["containers"][0]["args"][0]

    (pytorch,) = manifests(*CASES["kubernetes_pytorchjob.yaml"])
    assert (pytorch["apiVersion"], pytorch["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = pytorch["spec"]["pytorchReplicaSpecs"]
    assert {name: replica["replicas"] for name, replica in replicas.items()} == {"Master": 1, "Worker": 1}
    for replica in replicas.values():
        pod(replica["template"]["spec"])
        assert replica["restartPolicy"] == "ExitCode"
        assert [each["name"] for each in replica["template"]["spec"]["containers"]] == ["pytorch"]


@pytest.mark.parametrize("name", ["kubernetes_jobset.yaml", "kubernetes_trainjob.yaml"])
def test_jobset_and_trainjob_satisfy_their_schemas(name: str) -> None:
    """Kubeflow Trainer publishes its own schema and JobSet's as models. They pass unknown keys over, so nothing may be lost on the way."""
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    spec, work = CASES[name]
    model = JobsetV1alpha2JobSet if "jobset" in name else TrainerV1alpha1TrainJob
    (document,) = manifests(replace(spec, time="24:00:00", environment=("A=1",)), work)
    assert model.from_dict(document).to_dict() == document
    document["spec"]["completionz"] = 1
    assert model.from_dict(document).to_dict() != document


def test_a_trainjob_has_the_runtimes_names() -> None:
    (train,) = manifests(replace(CASES["kubernetes_trainjob.yaml"][0], time="01:00:00"), PODS)
    assert (train["apiVersion"], train["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert (train["spec"]["trainer"]["numNodes"], train["spec"]["trainer"]["numProcPerNode"]) == (2, 8)
    assert train["spec"]["activeDeadlineSeconds"] == 3600
    (patched,) = train["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = patched["template"]["spec"]["template"]["spec"]
    assert (patched["name"], pod["containers"][0]["name"], pod["terminationGracePeriodSeconds"]) == ("node", "node", 300)


def test_defaults_of_a_site_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[job]\nscheduler = "pbs"\naccount = "bio"\ngpus_per_node = 4\nmodule = ["cuda"]\n')
    spec = resolve({"nodes": 2, "account": None}, site, ["train"])
    assert (spec.scheduler, spec.account, spec.nodes, spec.ranks, spec.module, spec.name) == (
        "pbs",
        "bio",
        2,
        4,
        ("cuda",),
        "foldline-train",
    )
    assert resolve({"account": "chem"}, site, ["train"]).account == "chem"
    assert resolve({"array": 3}, site, ["search"]).array == 3, "a site's number of GPUs is no number of searching processes"
    monkeypatch.setenv("FOLDLINE_JOB", str(site))
    assert resolve({}, None, ["train"]).account == "bio"
    site.write_text('[job]\nscheduler = "pbs"\nacount = "bio"\n')
    with pytest.raises(FoldlineError, match=r"unknown key 'acount'; did you mean 'account'"):
        resolve({}, site, ["train"])
    site.write_text('[jobs]\nscheduler = "pbs"\n')
    with pytest.raises(FoldlineError, match=r"one table \[job\], not \[jobs\]"):
        resolve({}, site, ["train"])


@pytest.mark.parametrize(
    ("flags", "command", "words"),
    [
        ({}, ["train"], "--scheduler is not given"),
        ({"scheduler": "slurm"}, [], "no command"),
        ({"scheduler": "slrm"}, ["train"], "did you mean 'slurm'"),
        ({"scheduler": "slurm", "nodes": 0, "chain": 0}, ["train"], "nodes = 0 is below 1; chain = 0"),
        ({"scheduler": "slurm", "time": "90"}, ["train"], r"time = '90' is not \[D-\]HH:MM"),
        ({"scheduler": "slurm", "time": "00:04"}, ["train"], "signal_ahead = 300 s is not below time = 00:04"),
        ({"scheduler": "slurm", "name": "My Job"}, ["train"], "name = 'My Job'"),
        ({"scheduler": "slurm", "nodes": 2}, ["search"], "search is one process, not 2 nodes"),
        ({"scheduler": "slurm", "array": 4}, ["train"], "only search and ingest can be divided"),
        ({"scheduler": "kubernetes"}, ["train"], "needs container"),
        ({"scheduler": "kubernetes", "container": "i", "chain": 2}, ["train"], "chain is for queues"),
        ({"scheduler": "pbs", "container": "i", "container_runtime": "pyxis"}, ["train"], "'pyxis' is a plugin of Slurm"),
        ({"scheduler": "slurm", "environment": ["A"]}, ["train"], "environment = 'A' is not of the form NAME=VALUE"),
        ({"scheduler": "slurm", "mount": ["/a:/a"]}, ["train"], "mount is given without container"),
    ],
)
def test_mistakes_are_told(flags: dict, command: list[str], words: str) -> None:
    with pytest.raises(FoldlineError, match=words):
        resolve(flags, None, command)


# A value for every key that differs from the default; and what else must be so for it to count.
CHANGED: dict[str, tuple[object, dict[str, object]]] = {
    "name": ("other", {}),
    "nodes": (3, {}),
    "gpus_per_node": (4, {}),
    "ranks_per_node": (5, {}),
    "cpus_per_rank": (6, {}),
    "memory": ("7G", {}),
    "time": ("08:00", {}),
    "account": ("a9", {}),
    "partition": ("p9", {}),
    "qos": ("q9", {}),
    "extra": (("--exclusive",), {}),
    "module": (("m9",), {}),
    "activate": ("/a/9", {}),
    "environment": (("A=9",), {}),
    "container": ("/i9.sif", {}),
    "container_runtime": ("pyxis", {"container": "/i9.sif"}),
    "mount": (("/m9:/m9",), {"container": "/i9.sif"}),
    "mpirun": ("mpiexec -n {ranks}", {}),
    "array": (9, {}),
    "chain": (9, {}),
    "signal_ahead": (99, {}),
    "requeue": (False, {}),
    "kind": ("jobset", {"scheduler": "kubernetes", "container": "i"}),
    "namespace": ("n9", {"scheduler": "kubernetes", "container": "i"}),
}


@pytest.mark.parametrize("key", CHANGED)
def test_every_key_says_something(key: str) -> None:
    value, more = CHANGED[key]
    before = replace(SMALL, **more)
    work = SEARCH if key == "array" else TRAIN
    assert job_text(replace(before, **{key: value}), work) != job_text(before, work)


def test_every_key_is_an_option() -> None:
    keys = {field.name for field in fields(JobSpec)}
    assert keys == {name.replace("-", "_") for name in (*OPTIONS, *LISTS)} | {"requeue"}
    assert keys == set(CHANGED) | {"scheduler", "folder"}


def test_conda_is_activated_with_a_name() -> None:
    assert "source /opt/conda/bin/activate af\n" in job_text(replace(SMALL, activate="/opt/conda/bin/activate af"), TRAIN)


def test_time_limits() -> None:
    seconds = {"00:20": 1200, "12:00:00": 43_200, "1-00:00": 86_400, "2-03:04:05": 183_845, "": 0}
    assert {text: JobSpec("slurm", time=text).seconds for text in seconds} == seconds
    assert "#SBATCH --time=1-00:00:00" in job_text(LARGE, TRAIN), "1-00:00 as it stands would do, 00:20 would be minutes"
    assert "#SBATCH --time=00:20:00" in job_text(replace(SMALL, time="00:20"), TRAIN)
    assert "walltime=51:04:05" in job_text(replace(SMALL, scheduler="pbs", time="2-03:04:05"), TRAIN)
    assert "-W 51:04" in job_text(replace(SMALL, scheduler="lsf", time="2-03:04:05"), TRAIN)


def test_where_a_training_writes(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[run]\ndir = "runs/a"\n')
    assert run_directory(["train", "--config", "run.toml"], tmp_path, False) == "runs/a"
    assert run_directory(["train", "--config=run.toml", "--set", 'run.dir="b c"'], tmp_path, False) == "b c"
    assert run_directory(["train", "--config", "/in/image.toml", "--set=run.dir=/data/r"], tmp_path, True) == "/data/r"
    for command, inside, words in (
        (["train"], False, "needs --config"),
        (["train", "--config", "no.toml"], False, "no config file"),
        (["train", "--config", "/in/image.toml"], True, "inside the container"),
    ):
        with pytest.raises(FoldlineError, match=words):
            run_directory(command, tmp_path, inside)


def test_a_pods_run_must_outlive_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[run]\ndir = "runs/a"\n')
    with pytest.raises(FoldlineError, match="would be lost with its pod"):
        work_of(IMAGE, ["train", "--config", "run.toml"], tmp_path, tmp_path)
    work = work_of(IMAGE, ["train", "--config", "run.toml", "--set", "run.dir=/proj/a"], tmp_path, tmp_path)
    assert (work.run_dir, work.program) == ("/proj/a", ("foldline",))
    with pytest.raises(FoldlineError, match="--nodes and --ranks-per-node"):
        work_of(SMALL, ["train", "--config", "run.toml", "--launcher", "mpi"], tmp_path, tmp_path)


def test_tasks_of_an_ingest_are_disjoint_and_complete(tmp_path: Path) -> None:
    rows = [f"c{n},s{n}.cif,A,m{n}.a3m" for n in range(7)]
    (tmp_path / "chains.csv").write_text("id,structure,chain,msas\n" + "\n".join(rows) + "\n\n")
    command = ("ingest", "chains.csv", "--workers", "2", "--store=s")
    paths = divide_table(command, 3, tmp_path)
    parts = [path.read_text().splitlines() for path in paths]
    assert {part[0] for part in parts} == {"id,structure,chain,msas"}
    assert sorted(row for part in parts for row in part[1:]) == rows
    work = shard(replace(ARRAY, array=3), replace(INGEST, command=command))
    assert work.command == ("ingest", "--workers", "2")
    assert work.shards[1] == ("chains.part-1-of-3.csv", "--store", "s.part-1")
    assert [path.name for path in paths] == [part[0] for part in work.shards]
    assert (work.merge, work.table) == (("store", "merge", "s.part-0", "s.part-1", "s.part-2", "s"), "chains.csv")
    folders = shard(replace(ARRAY, array=2), replace(INGEST, command=("ingest", "a", "b", "c", "--store", "s")))
    assert folders.shards == (("a", "c", "--store", "s.part-0"), ("b", "--store", "s.part-1"))
    assert folders.table == ""
    with pytest.raises(FoldlineError, match="pods know no relative paths"):
        shard(replace(IMAGE, array=3), replace(INGEST, command=command))
    for wrong, words in (
        (("ingest", "a", "--store", "s"), "more tasks than the ingest has sources"),
        (("ingest", "a", "b", "c", "--store", "s", "--mpi"), "--mpi does not go with --array"),
        (("ingest", "a", "b", "c"), "--store STORE"),
    ):
        with pytest.raises(FoldlineError, match=words):
            shard(replace(ARRAY, array=3), replace(INGEST, command=wrong))
    with pytest.raises(FoldlineError, match="has rows"):
        divide_table(command, 8, tmp_path)
