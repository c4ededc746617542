"""What is asked of each scheduler: submit a script, tell a job's state, cancel it. A command line each, and the reading of its answer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from .spec import JobSpec

PATIENCE = 60.0  # seconds for an answer


@dataclass(frozen=True)
class State:
    """Where a job is: "queued", "running", "requeued" (waiting to be started again), "done", "failed", "cancelled", or "gone": the
    scheduler does not know it any more. ``detail`` has reason, hosts or exit code."""

    word: str
    detail: str = ""


def ask(command: Sequence[str], check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a scheduler's command on the input ``text``. FoldlineError where it is missing, silent for a minute, or (``check``) refuses."""
    if shutil.which(command[0]) is None:
        raise FoldlineError(f"{command[0]} is not on PATH: this host cannot talk to the scheduler; `foldline submit --dry-run` needs none")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, input=text)
    except subprocess.TimeoutExpired:
        raise FoldlineError(f"{command[0]} has not answered for {PATIENCE:g} s; the scheduler may be down, so try again later") from None
    if check and done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise FoldlineError(f"{command[0]} refused ({reason}); it was: {' '.join(command)}")
    return done


def submit_slurm(spec: JobSpec, script: Path, after: str, succeeded: bool) -> str:
    """``after``: id of a job to wait for, whatever its end, or its success."""
    wait = [f"--dependency={'afterok' if succeeded else 'afterany'}:{after}"] if after else []
    answer = ask(["sbatch", "--parsable", *wait, str(script)]).stdout.strip()
    return answer.splitlines()[-1].split(";")[0]  # with several clusters: id;cluster


def submit_pbs(spec: JobSpec, script: Path, after: str, succeeded: bool) -> str:
    wait = ["-W", f"depend={'afterok' if succeeded else 'afterany'}:{after}"] if after else []
    return ask(["qsub", *wait, str(script)]).stdout.strip()


def submit_lsf(spec: JobSpec, script: Path, after: str, succeeded: bool) -> str:
    wait = ["-w", f"{'done' if succeeded else 'ended'}({after})"] if after else []
    said = ask(["bsub", *wait], text=script.read_text()).stdout  # bsub reads a script with #BSUB lines from its standard input
    match = re.search(r"Job <(\d+)>", said)
    if match is None:
        raise FoldlineError(
            f"bsub did not tell the job's number ({said.strip() or 'no message'}); look with bjobs whether it was submitted"
        )
    return match[1]


def submit_kubernetes(spec: JobSpec, script: Path, after: str, succeeded: bool) -> str:
    ask(["kubectl", *_namespace(spec.namespace), "create", "-f", str(script)])
    return spec.name


def state_slurm(number: str, kind: str, namespace: str) -> State:
    """By ``scontrol``, which knows a job for some minutes after its end; sacct may have no database behind it."""
    done = ask(["scontrol", "-o", "show", "job", number], check=False)
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines() if "JobState=" in line]
    if not found:
        return State("gone", done.stderr.strip())
    states = [_slurm_word(about) for about in found]
    for word in ("running", "requeued", "queued", "failed", "cancelled", "done"):
        those = [state for state in states if state.word == word]
        if those:
            share = f"{len(those)} of {len(states)} tasks " if len(states) > 1 else ""
            return State(word, (share + those[0].detail).strip())
    return states[0]


def _slurm_word(about: dict[str, str]) -> State:
    state, again = about["JobState"], about.get("Restarts", "0")
    if state == "PENDING":
        waits = f"start {int(again) + 1}, " if again != "0" else ""
        return State("requeued" if again != "0" else "queued", f"{waits}reason {about.get('Reason', '')}")
    if state in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"):
        return State("running", f"on {about.get('NodeList', '')}" + (f", start {int(again) + 1}" if again != "0" else ""))
    if state.startswith("REQUEUE"):
        return State("requeued")
    if state == "COMPLETED":
        return State("done")
    if state == "CANCELLED":
        return State("cancelled")
    return State("failed", f"{state.lower()}, exit code {about.get('ExitCode', '')}")


def state_pbs(number: str, kind: str, namespace: str) -> State:
    done = ask(["qstat", "-x", "-f", "-F", "json", number], check=False)
    try:
        jobs: dict[str, Any] = json.loads(done.stdout).get("Jobs", {})
    except ValueError:
        jobs = {}
    if not jobs:
        return State("gone", done.stderr.strip())
    about = next(iter(jobs.values()))
    letter, again = about.get("job_state", ""), int(about.get("run_count", 0))
    if letter in "QHWTM":
        return State("requeued" if again > 0 else "queued", about.get("comment", ""))
    if letter in "REBSU":
        return State("running", f"on {about.get('exec_host', '').split('/')[0]}")
    code = about.get("Exit_status")
    if code is None or code == 271:  # 256 + SIGTERM: qdel
        return State("cancelled")
    return State("done" if code == 0 else "failed", "" if code == 0 else f"exit code {code}")


def state_lsf(number: str, kind: str, namespace: str) -> State:
    done = ask(["bjobs", "-a", "-json", "-o", "jobid stat exit_code exit_reason exec_host", number], check=False)
    try:
        rows = [row for row in json.loads(done.stdout).get("RECORDS", []) if row.get("STAT")]
    except ValueError:
        rows = []
    if not rows:
        return State("gone", done.stderr.strip())
    states = [_lsf_word(row) for row in rows]
    for word in ("running", "requeued", "queued", "failed", "cancelled", "done"):
        those = [state for state in states if state.word == word]
        if those:
            return State(word, (f"{len(those)} of {len(states)} tasks " if len(states) > 1 else "") + those[0].detail)
    return states[0]


def _lsf_word(row: dict[str, str]) -> State:
    status, code = row["STAT"], row.get("EXIT_CODE", "")
    if status in ("PEND", "PSUSP", "WAIT"):
        return State("requeued" if code else "queued")
    if status in ("RUN", "USUSP", "SSUSP", "PROV"):
        return State("running", f"on {row.get('EXEC_HOST', '').split(':')[0]}")
    if status == "DONE":
        return State("done")
    if "TERM_OWNER" in row.get("EXIT_REASON", ""):
        return State("cancelled")
    return State("failed", f"exit code {code}")


def state_kubernetes(number: str, kind: str, namespace: str) -> State:
    done = ask(["kubectl", *_namespace(namespace), "get", kind, number, "-o", "json"], check=False)
    if done.returncode:
        return State("gone", done.stderr.strip())
    status = json.loads(done.stdout).get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", []) if each.get("status") == "True"}
    for name in ("Failed", "Complete", "Completed", "Succeeded"):
        if name in conditions:
            return State("failed", conditions[name].get("message", "")) if name == "Failed" else State("done")
    if status.get("active") or "Running" in conditions:
        ready, lost = status.get("ready", 0), status.get("failed", 0)
        words = f"{ready} of {status.get('active', 0)} pods ready" + (f", {lost} lost so far" if lost else "")
        return State(
            "running" if ready or "Running" in conditions else "requeued" if lost else "queued", words if status.get("active") else ""
        )
    return State("requeued" if status.get("failed") else "queued")


def _namespace(name: str) -> list[str]:
    return ["--namespace", name] if name else []


def cancel(scheduler: str, numbers: Sequence[str], kind: str, namespace: str) -> None:
    """Cancel jobs; those that have ended already are passed over."""
    commands = {"slurm": ["scancel"], "pbs": ["qdel"], "lsf": ["bkill"]}
    for number in numbers:
        if scheduler == "kubernetes":
            ask(["kubectl", *_namespace(namespace), "delete", kind, number, "--ignore-not-found"])
            if kind == "job":
                ask(["kubectl", *_namespace(namespace), "delete", "service", number, "--ignore-not-found"])
        else:
            ask([*commands[scheduler], number], check=False)


SUBMIT: dict[str, Callable[[JobSpec, Path, str, bool], str]] = {
    "slurm": submit_slurm,
    "pbs": submit_pbs,
    "lsf": submit_lsf,
    "kubernetes": submit_kubernetes,
}
STATE: dict[str, Callable[[str, str, str], State]] = {
    "slurm": state_slurm,
    "pbs": state_pbs,
    "lsf": state_lsf,
    "kubernetes": state_kubernetes,
}
