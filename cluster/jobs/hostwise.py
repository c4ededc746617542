"""Ranks where the scheduler starts none: one `foldline launch` per host, the others' by a remote shell from the first."""

from __future__ import annotations

from collections.abc import Sequence

from .script import Work, contained, rank_starter, words
from .spec import JobSpec


def launcher(spec: JobSpec, work: Work) -> str:
    """`foldline launch` for one host, still without its place."""
    return words([*contained(spec, work), "launch", "--ranks-per-node", str(spec.ranks), "--nodes", str(spec.nodes)])


def on_other_hosts(spec: JobSpec, work: Work) -> list[str]:
    """The part of the script that the other hosts run: ``bash job.sh host NODE ADDRESS PORT [--resume]``."""
    if spec.nodes == 1 or spec.mpirun:
        return []
    return [
        "",
        'if [ "${1:-}" = host ]; then',
        f'    exec {launcher(spec, work)} --node "$2" --address "$3" --port "$4" -- {words(work.command)} "${{@:5}}"',
        "fi",
    ]


def start(spec: JobSpec, work: Work, hosts: str, job_number: str, remote: str, ahead: bool) -> list[str]:
    """Bash that starts all ranks and leaves ``$pid``, the first host's launcher.

    ``hosts`` prints the job's hosts, one a line; ``remote`` starts a command on a host; ``ahead``: the scheduler gives no warning before
    the time limit, so the script gives it.
    """
    limit = []
    if ahead and spec.seconds and spec.signal_ahead:
        limit = [f"timeout --preserve-status --foreground --signal=USR1 $(({spec.seconds - spec.signal_ahead} - SECONDS))"]
    if spec.mpirun:
        return [f'{" ".join([*limit, words([*rank_starter(spec), *contained(spec, work), *work.command])])} "${{resume[@]}}" &', "pid=$!"]
    local = " ".join([*limit, launcher(spec, work)])
    others: Sequence[str] = ()
    if spec.nodes > 1:
        others = [
            'for node in "${!hosts[@]}"; do',
            '    [ "$node" = 0 ] && continue',
            "    # A warning goes to the first host's ranks, which tell the others; the remote shells must outlive it.",
            f'    (trap \'\' USR1; exec {remote} "${{hosts[$node]}}" bash "$job/job.sh" host "$node" "${{hosts[0]}}" "$port" '
            '"${resume[@]}") &',
            "done",
        ]
    return [
        f"mapfile -t hosts < <({hosts})",
        f"port=$((20000 + {job_number} * 31 % 10000))",
        *others,
        f'{local} --node 0 --address "${{hosts[0]}}" --port "$port" -- {words(work.command)} "${{resume[@]}}" &',
        "pid=$!",
    ]
