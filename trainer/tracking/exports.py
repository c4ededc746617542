"""``foldline track export``: a bundle that passed its gate, as a child of the run whose weights it holds, and on their model version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from ..rundir import RunDir
from .feed import open_client
from .state import Sent, TrackingState, read_json
from .sync import address_of

MANIFEST, ENGINES, ENGINE, GATE, PAGE = "manifest.json", "engines", "engine.json", "gate.json", "gate.html"


def export_command(bundle: Path, uri: str) -> int:
    """Track ``bundle`` with its gated engines, once; 0, or FoldlineError where it is no bundle or the server does not know its run.

    After `foldline engine build`, the same command adds what is new.
    """
    manifest = read_json(bundle / MANIFEST)
    engines = gated_engines(bundle)
    if "identity" not in manifest or not engines:
        raise FoldlineError(f"{bundle} is no bundle with an engine that passed its gate; make one with `foldline export`")
    root = Path(manifest["run"])
    address = address_of(root, uri)
    parent = TrackingState.read(RunDir(root).tracking).servers.get(address, Sent()).run_id
    if not parent:
        raise FoldlineError(
            f"{address} does not know {root}, whose weights {bundle} holds; first: foldline track sync {root} --uri {address}"
        )
    try:
        run_id = track_bundle(open_client(address), bundle, manifest, engines, parent)
    except Exception as error:  # MLflow, its HTTP client and its database each have their own
        raise FoldlineError(f"{bundle}: {address} did not take everything ({error}); give the same command again") from None
    print(f"{bundle}: run {run_id} below {parent} at {address}")
    return 0


def gated_engines(bundle: Path) -> dict[str, dict[str, Any]]:
    """Folder of an engine -> its gate's report, of those that passed."""
    found = {folder.name: read_json(folder / GATE) for folder in sorted((bundle / ENGINES).glob("[!.]*"))}
    return {name: gate for name, gate in found.items() if gate.get("passed")}


def track_bundle(client: Any, bundle: Path, manifest: dict[str, Any], engines: dict[str, dict[str, Any]], parent: str) -> str:
    """The run of the bundle, found by its identity or made: each gate's worst values and speeds as metrics, the reports as artefacts."""
    experiment, identity = client.get_run(parent).info.experiment_id, manifest["identity"]
    found = client.search_runs([experiment], f"tags.`foldline.uid` = '{identity}'", max_results=1)
    tags = {"foldline.uid": identity, "mlflow.parentRunId": parent, "foldline.stage": "export", "foldline.version": manifest["foldline"]}
    run_id = found[0].info.run_id if found else client.create_run(experiment, None, tags, bundle.resolve().name).info.run_id
    client.log_param(run_id, "opset", manifest["opset"])
    client.log_artifact(run_id, str(bundle / MANIFEST))
    there = client.get_run(run_id).data.metrics
    for folder, gate in engines.items():
        depends = read_json(bundle / ENGINES / folder / ENGINE)["depends"]
        kind = "-".join(depends[key] for key in ("kind", "precision", "device"))
        client.log_param(run_id, f"engine/{folder}", f"{kind}, against {gate['reference']}")
        for name, value in (worst_values(gate, f"gate/{kind}") | speeds(gate, f"speed/{kind}")).items():
            if name not in there:
                client.log_metric(run_id, name, value)
        for name in (ENGINE, GATE, PAGE):
            if (bundle / ENGINES / folder / name).exists():
                client.log_artifact(run_id, str(bundle / ENGINES / folder / name), f"{ENGINES}/{folder}")
    weights = manifest["weights"]["sha256"]
    for version in client.search_model_versions(f"run_id = '{parent}'"):
        if version.tags.get("foldline.weights") == weights:
            client.set_model_version_tag(version.name, version.version, "foldline.bundle", identity)
            client.set_model_version_tag(version.name, version.version, "foldline.gate", "passed")
    client.set_terminated(run_id, "FINISHED")
    return str(run_id)


def worst_values(gate: dict[str, Any], prefix: str) -> dict[str, float]:
    """ "PREFIX/NAME" of a check -> the largest value over the proteins; values that are no numbers are left out."""
    worst: dict[str, float] = {}
    for check in gate["checks"]:
        if isinstance(check["value"], int | float):
            name = f"{prefix}/" + "".join(c if c.isalnum() or c in "_-. /" else "_" for c in check["name"])
            worst[name] = max(float(check["value"]), worst.get(name, 0.0))
    return worst


def speeds(gate: dict[str, Any], prefix: str) -> dict[str, float]:
    """By length, how many times as fast as PyTorch in float32 the engine folds, and its peak memory; {} where they were not measured."""
    found: dict[str, float] = {}
    bench = gate.get("bench") or {"cells": ()}
    for cell in bench["cells"]:
        if cell["contender"] == bench["contenders"][-1]:
            found[f"{prefix}/times PyTorch {cell['residues']} residues"] = float(cell["ratio"])
            if cell["peak"] is not None:
                found[f"{prefix}/peak bytes {cell['residues']} residues"] = float(cell["peak"]["bytes"])
    return found
