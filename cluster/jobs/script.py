"""The bash that jobs of all schedulers share: environment, starting again from a checkpoint, stopping in time. Pure functions of a spec.

A job keeps notes beside its script: ``starts`` (the newest checkpoint at each start), and at the end one of ``done``, ``failed`` (the exit
code) and ``cancelled``. Later starts, links of a chain and `foldline jobs` read them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from .spec import ON_RANKS, JobSpec

STALE = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT"  # of a shell that was itself inside a job
LOST = '[ "$code" -gt 128 ] && [ "$code" != 130 ] && code=69  # killed from outside is a lost rank, too; 130 is an interrupt'
FRUITLESS = 3  # starts in a row without a new checkpoint, after which a job gives up


@dataclass(frozen=True)
class Work:
    """What a job runs: ``command`` is a `foldline` command line, ``program`` how this site calls foldline.

    ``folder`` holds script, notes and logs; ``run_dir`` is a training's run.dir, as seen from ``cwd``; ``shards`` are the arguments that
    each task of an array gets on top, () where they follow from its number (``task_arguments``, bash that may use $task). ``merge`` is the
    command line that joins what the tasks have made, ``table`` the manifest whose rows they share; "" where there is none.
    """

    command: tuple[str, ...]
    program: tuple[str, ...]
    cwd: str
    folder: str
    run_dir: str = ""
    shards: tuple[tuple[str, ...], ...] = ()
    task_arguments: str = ""
    merge: tuple[str, ...] = ()
    table: str = ""

    @property
    def on_ranks(self) -> bool:
        """Whether the command's processes are ranks of one job."""
        return self.command[0] in ON_RANKS


def words(parts: Sequence[str]) -> str:
    """``parts`` as one line of shell."""
    return " ".join(shlex.quote(part) for part in parts)


def opening(spec: JobSpec, work: Work) -> list[str]:
    """Folder, directory, modules, environment."""
    return [
        "",
        "# Written by `foldline submit`. The job's notes and logs lie in the same folder.",
        f"job={shlex.quote(work.folder)}",
        f"cd {shlex.quote(work.cwd)} || exit 2",
        f"unset {STALE}  # a shell inside another job may have passed these on",
        *(f"module load {shlex.quote(name)}" for name in spec.module),
        *([f"source {words(shlex.split(spec.activate))}"] if spec.activate else []),
        *(f"export {pair.split('=')[0]}={shlex.quote(pair.partition('=')[2])}" for pair in spec.environment),
    ]


def contained(spec: JobSpec, work: Work) -> list[str]:
    """How one process calls foldline: inside the container where there is one (Pyxis's is srun's business)."""
    if not spec.container or spec.container_runtime != "apptainer":
        return list(work.program)
    binds = [word for mount in spec.mount for word in ("--bind", mount)]
    gpus = ["--nv"] if spec.gpus_per_node else []
    return ["apptainer", "exec", *gpus, "--bind", work.cwd, "--bind", work.folder, "--pwd", work.cwd, *binds, spec.container, *work.program]


def rank_starter(spec: JobSpec) -> list[str]:
    """The site's own mpirun."""
    filled = {"{ranks}": spec.nodes * spec.ranks, "{ranks_per_node}": spec.ranks, "{nodes}": spec.nodes}
    command = spec.mpirun
    for name, number in filled.items():
        command = command.replace(name, str(number))
    return shlex.split(command)


def before_start(work: Work) -> list[str]:
    """What an earlier start has left: an end is final; a training goes on from its checkpoint, or begins again where there was none."""
    lines = [
        "",
        '[ -e "$job/cancelled" ] && exit 0',
        '[ -e "$job/done" ] && exit 0',
        '[ -e "$job/failed" ] && exit "$(cat "$job/failed")"',
    ]
    if not work.run_dir:
        return lines
    lines += [
        f"run={shlex.quote(work.run_dir)}",
        'newest() { compgen -G "$run/checkpoints/step_*/manifest.json" | sort | tail -n 1; }',
        "at=$(newest); at=${at:-no checkpoint}",
        "resume=()",
        'if [ -e "$job/starts" ]; then',
        f'    if [ "$(tail -n {FRUITLESS} "$job/starts" | grep -cxF -- "$at")" = {FRUITLESS} ]; then',
        f'        echo "foldline: {FRUITLESS} starts ended with no new checkpoint ($at); giving up"',
        '        echo 1 > "$job/failed"',
        "        exit 1",
        "    fi",
    ]
    if "--resume" not in work.command:
        lines += [
            '    if [ "$at" != "no checkpoint" ]; then',
            "        resume=(--resume)",
            '    elif [ -e "$run/config.json" ]; then',
            "        lost=$run.lost_$(date +%s)  # ended before its first checkpoint: nothing to go on from",
            '        mv "$run" "$lost" && echo "foldline: starting from the beginning; what there was is in $lost"',
            "    fi",
        ]
    return [*lines, "fi", 'echo "$at" >> "$job/starts"']


def waiting(signal: str) -> list[str]:
    """Wait for process ``$pid``; a warning from the scheduler is passed on to it as ``signal``, and ``$code`` is how it ended."""
    return [
        "",
        "warned=0",
        f'warn() {{ warned=$((warned + 1)); echo "foldline: told to stop; saving"; kill -{signal} "$pid" 2>/dev/null; }}',
        "trap warn USR1 TERM",
        "while true; do",
        "    before=$warned",
        '    wait "$pid"; now=$?',
        '    [ "$now" = 127 ] || code=$now',
        '    [ "$before" = "$warned" ] && break  # otherwise the warning ended the wait, not the process',
        "done",
        "trap '' USR1 TERM",
    ]


def ending(again: Sequence[str], suffix: str = "") -> list[str]:
    """Note how it ended. ``again``: bash for exit codes 69 (a rank was lost) and 75 (stopped after saving)."""
    return [
        "",
        LOST,
        'echo "foldline: ended with code $code"',
        'case "$code" in',
        f'    0) : > "$job/done{suffix}" ;;',
        "    69 | 75)",
        *(f"        {line}" for line in again or [":"]),
        "        ;;",
        f'    *) echo "$code" > "$job/failed{suffix}" ;;',
        "esac",
        'exit "$code"',
    ]


def training(work: Work, start: Sequence[str], again: Sequence[str]) -> list[str]:
    """A command on ranks; ``start`` is bash that starts them with ``${resume[@]}`` and leaves ``$pid``."""
    return [*before_start(work), "", *start, *waiting("USR1"), *ending(again)]


def single(spec: JobSpec, work: Work, task: str, again: Sequence[str]) -> list[str]:
    """A command that is one process, or with ``task`` (the shell's name for its number from 0) each task of an array."""
    call = words([*contained(spec, work), *work.command])
    suffix = ".$task" if task else ""
    lines = ["", f"task={task}"] if task else [""]
    lines += ['[ -e "$job/cancelled" ] && exit 0', f'[ -e "$job/done{suffix}" ] && exit 0']
    if work.shards:
        lines += ['case "$task" in', *(f"    {number}) part=({words(shard)}) ;;" for number, shard in enumerate(work.shards)), "esac"]
        call += ' "${part[@]}"'
    if work.task_arguments:
        call += f" {work.task_arguments}"
    lines += [f"{call} &", "pid=$!", *waiting("TERM")]
    # A search or an ingest that was told to stop goes on where it was when it is started again.
    lines += ['[ "$warned" -gt 0 ] && [ "$code" = 143 ] && code=75']
    return [*lines, *ending(again, suffix)]
