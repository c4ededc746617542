"""Jobs for LSF: bsub's script, the other hosts by blaunch."""

from __future__ import annotations

from .hostwise import on_other_hosts, start
from .script import Work, opening, single, training
from .spec import JobSpec

HOSTS = "tr -s ' ' '\\n' <<< \"${LSB_MCPU_HOSTS% }\" | awk 'NR % 2'"


def lsf_script(spec: JobSpec, work: Work) -> str:
    """The whole script for ``bsub``; LSF itself starts it again on exit codes 69 and 75 (-Q)."""
    if work.on_ranks:
        started = start(spec, work, HOSTS, '"$LSB_JOBID"', "blaunch", False)
        body = [*on_other_hosts(spec, work), *_log(spec), *training(work, started, ())]
    else:
        body = [*_log(spec), *single(spec, work, "$((LSB_JOBINDEX - 1))" if spec.array else "", ())]
    return "\n".join(["#!/bin/bash", *directives(spec, work), *opening(spec, work), *body]) + "\n"


def directives(spec: JobSpec, work: Work) -> list[str]:
    """The #BSUB lines; slots are ranks, ``cpus_per_rank`` cores are bound to each."""
    ranks = spec.ranks if work.on_ranks or spec.mpirun else 1
    resources = [f"span[ptile={ranks}]"]
    resources += [f"affinity[core({spec.cpus_per_rank})]"] if spec.cpus_per_rank else []
    resources += [f"rusage[mem={spec.memory}]"] if spec.memory else []
    lines = [
        f'-J "{spec.name}[1-{spec.array}]"' if spec.array else f"-J {spec.name}",
        f"-n {spec.nodes * ranks}",
        *(f'-R "{resource}"' for resource in resources),
        f'-gpu "num={spec.gpus_per_node}/host"' if spec.gpus_per_node else "",
        f"-W {spec.seconds // 3600}:{spec.seconds % 3600 // 60:02d}" if spec.seconds else "",
        f"-P {spec.account}" if spec.account else "",
        f"-q {spec.partition}" if spec.partition else "",
        f"-wa USR1 -wt {-(-spec.signal_ahead // 60)}" if spec.signal_ahead else "",
        '-Q "69 75"' if spec.requeue and spec.chain == 1 else "",
        "-r" if spec.requeue else "-rn",
        f"-o {work.folder}/lsf-%J.txt",
    ]
    return [f"#BSUB {line}" for line in [*lines, *spec.extra] if line]


def _log(spec: JobSpec) -> list[str]:
    """LSF hands the output over when a job has ended; written here it can be followed."""
    suffix = "-$LSB_JOBINDEX" if spec.array else ""
    return ["", f'exec >> "$job/log-$LSB_JOBID{suffix}.txt" 2>&1']
