"""Jobs for Kubernetes: an indexed batch/v1 Job with a headless service, which needs no operator; JobSet; PyTorchJob and TrainJob.

Sources: the batch/v1 schema (tests hold the Job against it), jobset.x-k8s.io/v1alpha2, kubeflow.org/v1, trainer.kubeflow.org/v1alpha1.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .script import FRUITLESS, LOST, STALE, Work, waiting, words
from .spec import JobSpec

PORT = 29400
RESTARTS = 100  # of pods that were lost or stopped; a job without progress gives up earlier by itself
CONTAINER = {"job": "foldline", "jobset": "foldline", "pytorchjob": "pytorch", "trainjob": "node"}  # names that the operators ask for
FINAL = [1, 2, 130]  # exit codes after which starting again would not help


def kubernetes_manifest(spec: JobSpec, work: Work) -> str:
    """What ``kubectl create`` gets: one YAML document, or two."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    # Scripts as they are read, not as one quoted line.
    Dumper.add_representer(
        str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
    )
    return yaml.dump_all(manifests(spec, work), Dumper=Dumper, sort_keys=False, width=10_000)


def manifests(spec: JobSpec, work: Work) -> list[dict[str, Any]]:
    """The objects of the job, in the order in which they are made."""
    if spec.kind == "jobset":
        return [_jobset(spec, work)]
    if spec.kind == "pytorchjob":
        return [_pytorchjob(spec, work)]
    if spec.kind == "trainjob":
        return [_trainjob(spec, work)]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(spec), "spec": _job(spec, work, f"{spec.name}-0.{spec.name}")}
    if spec.nodes == 1 or not work.on_ranks:
        return [job]
    ports = [{"name": "rendezvous", "port": PORT}]
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": spec.name}, "ports": ports}
    return [{"apiVersion": "v1", "kind": "Service", "metadata": _metadata(spec), "spec": service}, job]


def _metadata(spec: JobSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        **({"namespace": spec.namespace} if spec.namespace else {}),
        "labels": {"app.kubernetes.io/name": "foldline"},
    }


def _job(spec: JobSpec, work: Work, first: str) -> dict[str, Any]:
    pods = spec.array or (spec.nodes if work.on_ranks else 1)
    rules = [
        {"action": "FailJob", "onExitCodes": {"containerName": "foldline", "operator": "In", "values": FINAL}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "foldline", "operator": "In", "values": [69, 75]}},
    ]
    pod = _pod(spec, work, "$JOB_COMPLETION_INDEX", first, str(PORT), "")
    pod["restartPolicy"] = "Never"
    if work.on_ranks and spec.nodes > 1:
        pod["subdomain"] = spec.name
    return {
        "completions": pods,
        "parallelism": pods,
        "completionMode": "Indexed",
        "backoffLimit": RESTARTS if spec.requeue else 0,
        **({"activeDeadlineSeconds": spec.seconds} if spec.seconds else {}),
        **({"podFailurePolicy": {"rules": rules}} if spec.requeue else {}),
        "template": {"metadata": {"labels": {"app.kubernetes.io/name": "foldline"}}, "spec": pod},
    }


def _jobset(spec: JobSpec, work: Work) -> dict[str, Any]:
    """One replicated job; JobSet makes the service. Pods are called NAME-node-0-INDEX."""
    job = _job(spec, work, f"{spec.name}-node-0-0.{spec.name}")
    job["template"]["spec"].pop("subdomain", None)  # JobSet's to set
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(spec),
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": spec.name, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": 0},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _pytorchjob(spec: JobSpec, work: Work) -> dict[str, Any]:
    """Training operator v1. Its policy ExitCode starts pods again after 128 and above only, so 69 and 75 become 143 at the end."""
    pod = _pod(spec, work, "${PET_NODE_RANK:-$RANK}", "$MASTER_ADDR", "$MASTER_PORT", RETRIED if spec.requeue else "")
    replica = {"restartPolicy": "ExitCode" if spec.requeue else "Never", "template": {"spec": pod}}
    replicas = {"Master": {"replicas": 1, **replica}}
    if spec.nodes > 1:
        replicas["Worker"] = {"replicas": spec.nodes - 1, **replica}
    policy = {"cleanPodPolicy": "Running", "backoffLimit": RESTARTS, **({"activeDeadlineSeconds": spec.seconds} if spec.seconds else {})}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(spec),
        "spec": {"runPolicy": policy, "pytorchReplicaSpecs": replicas},
    }


def _trainjob(spec: JobSpec, work: Work) -> dict[str, Any]:
    """Kubeflow Trainer v2 on its runtime torch-distributed, which gives each pod its PET_ variables."""
    pod = _pod(spec, work, "$PET_NODE_RANK", "$PET_MASTER_ADDR", "$PET_MASTER_PORT", "")
    (container,) = pod["containers"]
    trainer = {
        "image": spec.container,
        "command": container["command"],
        "args": container["args"],
        "numNodes": spec.nodes,
        "numProcPerNode": spec.ranks,
        "resourcesPerNode": container["resources"],
        **({"env": container["env"]} if container["env"] else {}),
    }
    # What else a pod has is patched into the runtime's (Trainer 2.2 and later).
    more = {**pod, "containers": [{"name": "node", "volumeMounts": container["volumeMounts"]}]}
    node_job = {"name": "node", "template": {"spec": {"template": {"spec": more}}}}
    patch = {"manager": "foldline/submit", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node_job]}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(spec),
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": "torch-distributed"},
            "trainer": trainer,
            "runtimePatches": [patch],
            **({"activeDeadlineSeconds": spec.seconds} if spec.seconds else {}),
        },
    }


RETRIED = '[ "$code" = 69 ] || [ "$code" = 75 ] && code=143  # which the operator starts again'


def _pod(spec: JobSpec, work: Work, node: str, address: str, port: str, at_end: str) -> dict[str, Any]:
    """The pod's spec. Shared memory counts as the pod's; a claim is mounted at each ``mount``."""
    claims = list(dict.fromkeys(mount.partition(":")[0] for mount in spec.mount))
    limits = {
        **({"nvidia.com/gpu": str(spec.gpus_per_node)} if spec.gpus_per_node else {}),
        **({"cpu": str(spec.cpus_per_rank * spec.ranks)} if spec.cpus_per_rank else {}),
        **({"memory": spec.memory} if spec.memory else {}),
    }
    container = {
        "name": CONTAINER[spec.kind],
        "image": spec.container,
        "command": ["bash", "-c"],
        "args": [pod_script(spec, work, node, address, port, at_end)],
        "env": [{"name": name, "value": value} for name, _, value in (pair.partition("=") for pair in spec.environment)],
        "resources": {"limits": limits, "requests": dict(limits)},
        "volumeMounts": [
            *({"name": volume(mount.partition(":")[0]), "mountPath": mount.partition(":")[2]} for mount in spec.mount),
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    return {
        "terminationGracePeriodSeconds": max(spec.signal_ahead, 30),
        "containers": [container],
        "volumes": [
            *({"name": volume(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def volume(claim: str) -> str:
    """A volume's name, which allows less than a claim's."""
    return re.sub(r"[^a-z0-9-]", "-", claim)


def pod_script(spec: JobSpec, work: Work, node: str, address: str, port: str, at_end: str) -> str:
    """What a pod runs. A training's notes lie beside its run.dir, for pods share nothing else."""
    command = words([*work.program, *work.command])
    if work.merge:
        return "\n".join(_ingesting(work, node)) + "\n"
    if not work.on_ranks:
        lines = [f"task={node}"]
        return "\n".join([*lines, f"exec {command} {work.task_arguments}".rstrip()]) + "\n"
    launch = words([*work.program, "launch", "--ranks-per-node", str(spec.ranks), "--nodes", str(spec.nodes)])
    if spec.nodes == 1:
        node, address, port = "0", "127.0.0.1", str(PORT)
    place = [f'node="{node}"', f'address="{address}"', f'port="{port}"', f"unset {STALE}"]
    if spec.nodes > 1:
        place.append('for _ in $(seq 300); do getent hosts "$address" > /dev/null && break; sleep 1; done  # until pod 0 has its name')
    start = f'{launch} --node "$node" --address "$address" --port "$port" -- {words(work.command)} "${{resume[@]}}" &'
    lines = [
        *place,
        "resume=()",
        *_resume(work),
        start,
        "pid=$!",
        *waiting("USR1")[1:],
        LOST,
        *([at_end] if at_end else []),
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def _ingesting(work: Work, task: str) -> list[str]:
    """An ingest's part, and its merge by the pod that is the last. Its notes, one folder per submission, lie beside the store.

    A store is there as a whole or not at all, so one that is there was made before the pod was started again.
    """
    store, tasks = work.merge[-1], len(work.shards)
    lines = [
        f"task={task}",
        f"notes={words([f'{store}.{Path(work.folder).name}'])}",
        'case "$task" in',
        *(f"    {number}) part=({words(shard)}) made={words([shard[-1]])} ;;" for number, shard in enumerate(work.shards)),
        "esac",
        'mkdir -p "$notes" || exit 2',
    ]
    if work.table:
        rows = f"NF {{ if (!seen++) print; else if (row++ % {tasks} == task) print }}"
        divide = words(["awk", "-v"]) + f' "task=$task" {words([rows, work.table])}'
        lines.append(f'{divide} > "${{part[0]}}.new" && mv "${{part[0]}}.new" "${{part[0]}}" || exit 2')
    return [
        *lines,
        "run() {",
        f'    {words(work.program)} "$@" &',
        "    pid=$!",
        *(f"    {line}" for line in waiting("TERM")[1:]),
        f"    {LOST}",
        '    [ "$code" = 0 ] || exit "$code"',
        "    trap - USR1 TERM",
        "}",
        'if [ ! -e "$notes/$task" ] || [ ! -e "$made" ]; then',
        '    : > "$notes/$task"',
        f'    run {words(work.command)} "${{part[@]}}"',
        "fi",
        ': > "$notes/$task.done"',
        f'[ "$(find "$notes" -name "*.done" | wc -l)" = {tasks} ] || exit 0',
        'ln -s "$task" "$notes/merger" 2>/dev/null',
        '[ "$(readlink "$notes/merger")" = "$task" ] || exit 0  # another one was the last, too',
        f"[ -e {words([store])} ] || run {words(work.merge)}",
    ]


def _resume(work: Work) -> list[str]:
    """Pod 0 notes the start and sets aside what an earlier start without a checkpoint has left; the others wait until it has."""
    if not work.run_dir or "--resume" in work.command:
        return []
    return [
        f"run={words([work.run_dir])}",
        'newest() { compgen -G "$run/checkpoints/step_*/manifest.json" | sort | tail -n 1; }',
        "at=$(newest); at=${at:-no checkpoint}",
        'if [ "$at" != "no checkpoint" ] && [ -e "$run.starts" ]; then',
        "    resume=(--resume)",
        'elif [ "$node" != 0 ]; then',
        '    for _ in $(seq 300); do [ -e "$run/config.json" ] && [ -e "$run.starts" ] || break; sleep 1; done',
        'elif [ -e "$run.starts" ] && [ -e "$run/config.json" ]; then',
        '    mv "$run" "$run.lost_$(date +%s)"  # ended before its first checkpoint: nothing to go on from',
        "fi",
        'if [ "$node" = 0 ]; then',
        f'    if [ "$(tail -n {FRUITLESS} "$run.starts" 2>/dev/null | grep -cxF -- "$at")" = {FRUITLESS} ]; then',
        f'        echo "foldline: {FRUITLESS} starts ended with no new checkpoint ($at); giving up"; exit 1',
        "    fi",
        '    mkdir -p "$(dirname "$run")" && echo "$at" >> "$run.starts"',
        "fi",
    ]
