"""From a spec and a command line to the text of a job: the one place that knows all schedulers' templates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ...errors import FoldlineError
from ...settings import read_toml
from .kubernetes import kubernetes_manifest
from .lsf import lsf_script
from .pbs import pbs_script
from .script import Work
from .shards import shard
from .slurm import slurm_script
from .spec import JobSpec

TEMPLATES = {"slurm": slurm_script, "pbs": pbs_script, "lsf": lsf_script, "kubernetes": kubernetes_manifest}


def job_text(spec: JobSpec, work: Work) -> str:
    """The script or manifest; a pure function."""
    return TEMPLATES[spec.scheduler](spec, work)


def file_name(spec: JobSpec) -> str:
    """What the text is called in the job's folder."""
    return "job.yaml" if spec.scheduler == "kubernetes" else "job.sh"


def work_of(spec: JobSpec, command: Sequence[str], cwd: Path, folder: Path) -> Work:
    """What the job runs. Reads a training's config for its run.dir. Raises FoldlineError for a command that cannot be run as a job."""
    inside = bool(spec.container)
    # In a container and after an activation foldline is what is found there, else what is running now.
    program = ("foldline",) if inside or spec.activate else (sys.executable, "-m", "foldline.cli")
    work = Work(tuple(command), program, str(cwd), str(folder))
    if command[0] == "train":
        if "--launcher" in command or "--ranks" in command:
            raise FoldlineError("train --launcher and --ranks start ranks on this host; in a job --nodes and --ranks-per-node say how many")
        work = replace(work, run_dir=run_directory(command, cwd, inside))
        if spec.scheduler == "kubernetes" and not work.run_dir.startswith("/"):
            raise FoldlineError(f"run.dir = {work.run_dir!r} would be lost with its pod; give an absolute path below a --mount")
    return shard(spec, work) if spec.array else work


def run_directory(command: Sequence[str], cwd: Path, inside: bool) -> str:
    """run.dir of a train command line, from its --set or its config file."""
    config, found = "", ""
    values = [*command, ""]
    for word, following in pairwise(values):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name == "--config":
            config = value
        elif name == "--set" and value.startswith("run.dir="):
            found = value.removeprefix("run.dir=").strip("\"'")
    if not config:
        raise FoldlineError("train needs --config FILE, from which the job learns run.dir")
    path = cwd / config
    if found or (inside and not path.is_file()):
        if not found:
            raise FoldlineError(f"{path} is not here (inside the container?), so run.dir is not known; give --set run.dir=DIRECTORY")
        return found
    section = read_toml(path).get("run", {})
    if not isinstance(section, dict) or not section.get("dir"):
        raise FoldlineError(f"{path} has no run.dir; give it there, or --set run.dir=DIRECTORY")
    return str(section["dir"])
