"""Jobs for Slurm: sbatch's script, ranks by srun."""

from __future__ import annotations

from collections.abc import Sequence

from .script import Work, contained, opening, rank_starter, single, training, words
from .spec import JobSpec

WAIT = 120  # seconds from the end of the first rank until srun ends the others; they find out who was lost by themselves
REQUEUE = (
    'if [ ! -e "$job/cancelled" ] && scontrol -o show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING "; then',
    '    echo "foldline: requeued"',
    '    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script',
    "fi",
)


def slurm_script(spec: JobSpec, work: Work) -> str:
    """The whole script for ``sbatch``."""
    again = REQUEUE if spec.requeue and spec.chain == 1 else ()
    body = training(work, _start(spec, work), again) if work.on_ranks else single(spec, work, _task(spec), again)
    return "\n".join(["#!/bin/bash", *directives(spec, work), *opening(spec, work), *body]) + "\n"


def directives(spec: JobSpec, work: Work) -> list[str]:
    """The #SBATCH lines."""
    options = {
        "job-name": spec.name,
        "nodes": str(spec.nodes),
        "ntasks-per-node": str(spec.ranks if work.on_ranks or spec.mpirun else 1),
        "cpus-per-task": str(spec.cpus_per_rank or ""),
        "gpus-per-node": str(spec.gpus_per_node or ""),
        "mem": spec.memory,
        "time": spec.time if spec.time.count(":") != 1 else f"{spec.time}:00",  # Slurm takes 08:30 for minutes and seconds
        "account": spec.account,
        "partition": spec.partition,
        "qos": spec.qos,
        "array": f"0-{spec.array - 1}" if spec.array else "",
        "output": f"{work.folder}/log-{'%A_%a' if spec.array else '%j'}.txt",
        "open-mode": "append",
        "signal": f"B:USR1@{spec.signal_ahead}" if spec.signal_ahead else "",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    lines.append("#SBATCH --requeue" if spec.requeue else "#SBATCH --no-requeue")
    return [*lines, *(f"#SBATCH {option}" for option in spec.extra)]


def _task(spec: JobSpec) -> str:
    return "$SLURM_ARRAY_TASK_ID" if spec.array else ""


def _start(spec: JobSpec, work: Work) -> Sequence[str]:
    if spec.mpirun:
        return [f'{words([*rank_starter(spec), *contained(spec, work), *work.command])} "${{resume[@]}}" &', "pid=$!"]
    srun = ["srun", f"--nodes={spec.nodes}", f"--ntasks={spec.nodes * spec.ranks}", f"--ntasks-per-node={spec.ranks}"]
    if spec.cpus_per_rank:
        srun.append(f"--cpus-per-task={spec.cpus_per_rank}")  # since Slurm 22.05 srun no longer takes it from sbatch
    srun += ["--cpu-bind=none", "--kill-on-bad-exit=0", f"--wait={WAIT}"]  # the ranks divide the CPUs themselves, each near its GPU
    if spec.container and spec.container_runtime == "pyxis":
        mounts = [f"{path}:{path}" for path in (work.cwd, work.folder)] + list(spec.mount)
        srun += [f"--container-image={spec.container}", f"--container-mounts={','.join(mounts)}", f"--container-workdir={work.cwd}"]
    return [f'{words([*srun, *contained(spec, work), *work.command])} "${{resume[@]}}" &', "pid=$!"]
