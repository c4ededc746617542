"""Jobs for OpenPBS and PBS Professional: qsub's script, the other hosts by pbs_tmrsh."""

from __future__ import annotations

from .hostwise import on_other_hosts, start
from .script import Work, opening, single, training
from .spec import JobSpec

HOSTS = "awk '!seen[$0]++' \"$PBS_NODEFILE\""
NUMBER = "${PBS_JOBID%%[!0-9]*}"  # '81[3].server' -> 81


def pbs_script(spec: JobSpec, work: Work) -> str:
    """The whole script for ``qsub``."""
    if work.on_ranks:
        # A job cannot requeue itself without an operator's rights, so it submits its script again and notes the new id.
        again = ['[ -e "$job/cancelled" ] || (cd "$job" && qsub job.sh >> ids)'] if spec.requeue and spec.chain == 1 else []
        started = start(spec, work, HOSTS, NUMBER, "pbs_tmrsh", True)
        body = [*on_other_hosts(spec, work), *_log(spec), *training(work, started, again)]
    else:
        body = [*_log(spec), *single(spec, work, "${PBS_ARRAY_INDEX:-0}" if spec.array else "", ())]
    return "\n".join(["#!/bin/bash", *directives(spec, work), *opening(spec, work), *body]) + "\n"


def directives(spec: JobSpec, work: Work) -> list[str]:
    """The #PBS lines."""
    ranks = spec.ranks if work.on_ranks or spec.mpirun else 1
    chunk = [f"select={spec.nodes}", f"ncpus={ranks * (spec.cpus_per_rank or 1)}", f"mpiprocs={ranks}"]
    chunk += [f"ngpus={spec.gpus_per_node}"] if spec.gpus_per_node else []
    chunk += [f"mem={spec.memory.lower().rstrip('b')}b"] if spec.memory else []
    hours, rest = divmod(spec.seconds, 3600)
    lines = [
        f"-N {spec.name}",
        f"-l {':'.join(chunk)}",
        "-l place=scatter" if spec.nodes > 1 else "",
        f"-l walltime={hours:02d}:{rest // 60:02d}:{rest % 60:02d}" if spec.seconds else "",
        f"-A {spec.account}" if spec.account else "",
        f"-q {spec.partition}" if spec.partition else "",
        f"-J 0-{spec.array - 1}" if spec.array > 1 else "",
        f"-r {'y' if spec.requeue or spec.array else 'n'}",  # qsub refuses arrays that may not be rerun
        "-j oe",
        f"-o {work.folder}/",
    ]
    return [f"#PBS {line}" for line in [*lines, *spec.extra] if line]


def _log(spec: JobSpec) -> list[str]:
    """PBS hands the output over when a job has ended; written here it can be followed."""
    suffix = "-${PBS_ARRAY_INDEX:-0}" if spec.array else ""
    return ["", f'exec >> "$job/log-{NUMBER}{suffix}.txt" 2>&1']
