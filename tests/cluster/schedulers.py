"""Strict stand-ins for qsub, bsub, sbatch and kubectl: they read options as documented, refuse unknown ones, run jobs, keep their states.

Installed as programs by ``install``; a folder of JSON is the queue. ``run`` runs a submitted script with bash, as its scheduler would.
Sources of the options: the manual pages of Slurm 22.05, OpenPBS 22 and LSF 10.1.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ.get("FAKE_QUEUE", "."))

# Option -> whether a value follows; what a value must look like.
SBATCH = {
    "job-name": r"\S+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "mem": r"\d+[KMGT]?",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "account": r"\S+",
    "partition": r"\S+",
    "qos": r"\S+",
    "array": r"\d+-\d+",
    "output": r"/\S+",
    "open-mode": r"append|truncate",
    "signal": r"(B:)?[A-Z0-9]+@\d+",
    "requeue": None,
    "no-requeue": None,
    "exclusive": None,
    "parsable": None,
    "dependency": r"after(ok|any):\d+",
}
QSUB = {
    "N": r"[A-Za-z][\w-]{0,229}",
    "l": r"select=\d+(:\w+=\w+)*|place=scatter|walltime=\d\d+:\d\d:\d\d",
    "A": r"\S+",
    "q": r"\S+",
    "J": r"\d+-\d+",
    "r": r"[yn]",
    "j": r"oe",
    "o": r"/\S+",
    "W": r"depend=after(ok|any):\S+",
}
BSUB = {
    "J": r"[\w-]+(\[1-\d+\])?",
    "n": r"\d+",
    "R": r"(span\[ptile=\d+\]|affinity\[core\(\d+\)\]|rusage\[mem=\d+[KMGT]?\])",
    "gpu": r"num=\d+/host",
    "W": r"\d+:\d\d",
    "P": r"\S+",
    "q": r"\S+",
    "wa": r"USR1",
    "wt": r"\d+",
    "Q": r"\d+( \d+)*",
    "r": None,
    "rn": None,
    "o": r"/\S+",
    "w": r"(done|ended)\(\d+\)",
}


def parse(words: list[str], known: dict[str, str | None], dashes: str) -> tuple[dict[str, list[str]], list[str]]:
    """Options and what is left. Ends the program with a message for what the scheduler would refuse."""
    options: dict[str, list[str]] = {}
    rest: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith(dashes):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(dashes).partition("=") if dashes == "--" else (word.removeprefix("-"), "", "")
        if name not in known:
            sys.exit(f"unrecognized option '{word}'")
        form = known[name]
        if form is None:
            if equals:
                sys.exit(f"option '{word}' takes no value")
        else:
            if not equals:
                if not words:
                    sys.exit(f"option '{word}' requires a value")
                value = words.pop(0)
            if not re.fullmatch(form, value):
                sys.exit(f"invalid value {value!r} for option '{word}'")
        options.setdefault(name, []).append(value)
    return options, rest


def directives(text: str, mark: str) -> list[str]:
    """The options in a script, which end at its first line that is neither blank nor a comment."""
    words: list[str] = []
    for line in text.splitlines():
        if line.startswith(f"#{mark} "):
            words += shlex.split(line.removeprefix(f"#{mark} "))
        elif line.strip() and not line.startswith("#"):
            break
    if f"\n#{mark} " in text[text.index("\n\n") :]:
        sys.exit(f"a #{mark} line behind the first command would be ignored")
    return words


def new_job(script: str, options: dict[str, list[str]], **more: object) -> str:
    first = STATE / "first"
    number = str(len(list(STATE.glob("*.json"))) + (int(first.read_text()) if first.exists() else 1))
    save(number, {"script": script, "options": options, "state": "queued", "runs": 0, "code": None, **more})
    return number


def number_jobs_apart(queue: Path) -> None:
    """Let the numbers of ``queue`` begin where the ports that ranks make of them are free: tests run beside each other."""
    for first in range(random.randrange(1, 9000), 9990):
        with socket.socket() as probe:
            try:
                probe.bind(("", 20000 + first * 31 % 10000))
            except OSError:
                continue
        (queue / "first").write_text(str(first))
        return


def load(number: str) -> dict:
    path = STATE / f"{number.split('.')[0]}.json"
    if not path.exists():
        sys.exit(f"unknown job {number}")
    return json.loads(path.read_text())


def save(number: str, job: dict) -> None:
    path = STATE / f"{number.split('.')[0]}.json"
    path.with_suffix(".new").write_text(json.dumps(job))
    os.replace(path.with_suffix(".new"), path)


def sbatch(words: list[str]) -> None:
    options, rest = parse(words, SBATCH, "--")
    (script,) = rest
    text = Path(script).read_text()
    inside, left = parse(directives(text, "SBATCH"), SBATCH, "--")
    if left or not text.startswith("#!"):
        sys.exit("This does not look like a batch script.")
    print(new_job(script, inside | options))


def qsub(words: list[str]) -> None:
    options, rest = parse(words, QSUB, "-")
    (script,) = rest
    text = Path(script).read_text()
    inside, left = parse(directives(text, "PBS"), QSUB, "-")
    if left:
        sys.exit(f"qsub: {left} is no option")
    resources = dict(part.split("=", 1) for value in inside.get("l", []) for part in value.split(":")[:1])
    if "select" not in resources:
        sys.exit("qsub: no select statement")
    number = new_job(str(Path(script).resolve()), inside | options)
    print(f"{number}.server")


def bsub(words: list[str]) -> None:
    text = sys.stdin.read()
    options, rest = parse(words, BSUB, "-")
    inside, left = parse(directives(text, "BSUB"), BSUB, "-")
    if rest or left:
        sys.exit(f"bsub: {rest + left}: Command not found")
    if ("wa" in inside) != ("wt" in inside):
        sys.exit("bsub: -wa and -wt go together")
    spool = STATE / f"spool-{len(list(STATE.glob('*.json')))}.sh"
    spool.write_text(text)
    number = new_job(str(spool), inside | options)
    print(f"Job <{number}> is submitted to default queue <normal>.")


def scontrol(words: list[str]) -> None:
    assert words[:3] == ["-o", "show", "job"], words
    job = load(words[3])
    state = {"queued": "PENDING", "done": "COMPLETED", "running": "RUNNING", "cancelled": "CANCELLED", "failed": "FAILED"}[job["state"]]
    print(f"JobId={words[3]} JobName=x JobState={state} Reason=None Restarts={job['runs']} ExitCode={job['code'] or 0}:0 NodeList=n[1-2]")


def qstat(words: list[str]) -> None:
    assert words[:4] == ["-x", "-f", "-F", "json"], words
    job = load(words[4])
    letter = {"queued": "Q", "running": "R"}.get(job["state"], "F")
    about = {"job_state": letter, "run_count": job["runs"], "exec_host": "n1/0*2+n2/0*2"}
    if letter == "F":
        about["Exit_status"] = 271 if job["state"] == "cancelled" else job["code"]
    print(json.dumps({"timestamp": 1, "pbs_version": "22.05", "Jobs": {words[4]: about}}))


def bjobs(words: list[str]) -> None:
    assert words[:4] == ["-a", "-json", "-o", "jobid stat exit_code exit_reason exec_host"], words
    job = load(words[4])
    status = {"queued": "PEND", "running": "RUN", "done": "DONE"}.get(job["state"], "EXIT")
    reason = "TERM_OWNER: job killed by owner" if job["state"] == "cancelled" else ""
    code = "" if job["code"] is None else str(job["code"])
    row = {"JOBID": words[4], "STAT": status, "EXIT_CODE": code, "EXIT_REASON": reason, "EXEC_HOST": "n1:n2"}
    print(json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [row]}))


def stop(words: list[str]) -> None:
    for number in words:
        save(number, {**load(number), "state": "cancelled"})


def kubectl(words: list[str]) -> None:
    import yaml

    if words[:1] == ["--namespace"]:
        words = words[2:]
    if words[:2] == ["create", "-f"]:
        for document in yaml.safe_load_all(Path(words[2]).read_text()):
            kind, name = document["kind"], document["metadata"]["name"]
            if (STATE / f"{name}.{kind}.yaml").exists():
                sys.exit(f'Error from server (AlreadyExists): {kind.lower()}s "{name}" already exists')
            (STATE / f"{name}.{kind}.yaml").write_text(yaml.safe_dump(document))
            print(f"{kind.lower()}/{name} created")
    elif words[:1] == ["get"] and words[3:] == ["-o", "json"]:
        status = STATE / f"{words[2]}.status"
        if not list(STATE.glob(f"{words[2]}.*.yaml")):
            sys.exit(f'Error from server (NotFound): {words[1]} "{words[2]}" not found')
        print(json.dumps({"status": json.loads(status.read_text()) if status.exists() else {}}))
    elif words[:1] == ["delete"] and words[3:] == ["--ignore-not-found"]:
        for path in STATE.glob(f"{words[2]}.*.yaml"):
            if path.name.lower() == f"{words[2]}.{words[1]}.yaml":
                path.unlink()
    elif words[:1] == ["logs"]:
        print("step 1/2\nstep 2/2")
    else:
        sys.exit(f"error: unknown command {words}")


PROGRAMS = {
    "sbatch": sbatch,
    "scontrol": scontrol,
    "scancel": stop,
    "qsub": qsub,
    "qstat": qstat,
    "qdel": stop,
    "bsub": bsub,
    "bjobs": bjobs,
    "bkill": stop,
    "kubectl": kubectl,
}


def install(folder: Path) -> None:
    """Put every program into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        path.chmod(0o755)


def run(number: str, environment: dict[str, str]) -> int:
    """Run a job's script as its scheduler would, with ``environment`` on top; its exit code, which its state then tells."""
    job = load(number)
    save(number, {**job, "state": "running"})
    done = subprocess.run(["bash", job["script"]], env={**os.environ, **environment}, check=False, timeout=600)
    again = str(done.returncode) in " ".join(job["options"].get("Q", [])).split()
    state = "done" if done.returncode == 0 else "queued" if again else "failed"
    save(number, {**load(number), "state": state, "code": done.returncode, "runs": job["runs"] + 1})
    return done.returncode


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
