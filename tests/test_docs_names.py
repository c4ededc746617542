"""What README and docs name exists: config keys and their defaults, files, tests, options of benchmarks, make's targets, links."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from foldline.cluster.jobs.spec import JobSpec
from foldline.export.config import LIMITS, ExportFile, Limits, load_export_config
from foldline.settings import from_dict
from foldline.trainer.config import RunConfig, load_config

from .docs_pages import FENCE, PAGES, ROOT, blocks, code, spans

CONFIGS = sorted((ROOT / "examples").glob("*.toml"))
SECTIONS = {field.name for field in dataclasses.fields(RunConfig)} | {"export"}
FOLDERS = ("data_store", "model", "trainer", "export", "cluster", "tests", "benchmarks", "examples", "docs")


def value_of(key: str) -> Any:
    """The default of a dotted config key; of a table its class. KeyError where there is none."""
    table: Any = ExportFile if key.split(".")[0] == "export" else RunConfig
    for part in key.split("."):
        if not dataclasses.is_dataclass(table):
            raise KeyError(key)
        hint = get_type_hints(table)[part]
        field = next(field for field in dataclasses.fields(table) if field.name == part)
        table = hint if dataclasses.is_dataclass(hint) else field.default
    return table


def keys_of(page: Path) -> Iterator[str]:
    """Dotted config keys that a page names, and the tables ``[section]``."""
    for span in spans(page.read_text()):
        key = re.fullmatch(r"\[?([a-z_]+(?:\.[a-z_0-9]+)*)\]?(?: = .*)?", span)
        dotted = key is not None and ("." in key[1] or span.startswith("["))
        if key and dotted and key[1].split(".")[0] in SECTIONS and not key[1].endswith((".py", ".toml", ".json", ".safetensors", ".onnx")):
            yield key[1]


def test_every_config_key_exists() -> None:
    missing, seen = [], 0
    for page in PAGES:
        for key in keys_of(page):
            seen += 1
            try:
                value_of(key)
            except KeyError:
                missing.append(f"{page.name}: {key}")
    assert seen > 60
    assert missing == []


def test_stated_defaults_are_the_defaults() -> None:
    """`section.key` (number), and tables whose head is | key of `[section]` | default |."""
    wrong, seen = [], 0
    for page in PAGES:
        text = page.read_text()
        stated = [(key, number) for key, number in re.findall(r"`([a-z_]+\.[a-z_.]+)` \(([\d.]+)\)", text)]
        stated += [(f"preflight.{key}", number) for key, number in re.findall(r"`([a-z_]+)` \(([\d.]+)[;)]", text)]
        for section, rows in re.findall(r"^\| key of `\[(\w+)\]` \| default \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.M):
            for row in rows.splitlines():
                names, values = (cell.split(", ") for cell in row.split(" | ")[:2])
                stated += [(f"{section}.{name.strip('`| ')}", value) for name, value in zip(names, values, strict=True)]
        for key, value in stated:
            seen += 1
            default = value_of(key)
            shown = "none" if default == "" else str(default).lower()
            if shown != value and not (isinstance(default, float) and float(value) == default):
                wrong.append(f"{page.name}: {key} is {value} there, {default} in the code")
    assert seen > 5
    assert wrong == []


def test_the_table_of_limits_is_the_code_s() -> None:
    """docs/export.md: | … | `key` | fp32 | bf16 | fp16 |."""
    rows = re.findall(r"^\|[^|]+\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "docs" / "export.md").read_text(), re.M)
    told = {key: tuple(map(float, values)) for key, *values in rows}
    names = [field.name for field in dataclasses.fields(Limits)]
    assert told == {name: tuple(getattr(LIMITS[kind], name) for kind in ("fp32", "bf16", "fp16")) for name in names}


def test_blocks_and_files_of_toml_are_valid() -> None:
    for page in PAGES:
        for language, body in blocks(page.read_text()):
            if language != "toml":
                continue
            data = tomllib.loads(body)
            if "job" in data:
                known = {field.name for field in dataclasses.fields(JobSpec)}
                assert set(data["job"]) <= known, page.name
            elif "export" in data:
                from_dict(ExportFile, data, page.name)
            else:
                run = {"dir": "RUN", "steps": 1} | data.get("run", {})
                from_dict(RunConfig, {**data, "data": {"store": "STORE"} | data.get("data", {}), "run": run}, page.name)
    for path in CONFIGS:
        if "export" in tomllib.loads(path.read_text()):
            load_export_config(path, ())
        else:
            load_config(path)


def test_files_tests_and_options_of_benchmarks_exist() -> None:
    missing = []
    for page in PAGES:
        for line in code(page.read_text()):
            for path in re.findall(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w", line):
                made = path.startswith(("benchmarks/results", "tests/reference/data/"))
                if not (made or "_REF" in path or (ROOT / path).exists()):
                    missing.append(f"{page.name}: {path}")
            script = re.search(r"python3? (benchmarks/\w+\.py)(.*)", line)
            if script and (ROOT / script[1]).exists():
                source = (ROOT / script[1]).read_text()
                missing += [
                    f"{page.name}: {script[1]} has no {name}" for name in re.findall(r"--[a-z-]+", script[2]) if f'"{name}"' not in source
                ]
    assert missing == []


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    lines = [re.sub(r"\s+# .*", "", line).strip() for page in PAGES for line in code(page.read_text())]
    named = {found[1] for line in lines if (found := re.fullmatch(r"make ([a-z-]+)(?: [A-Z]+=.*)?", line))}
    assert named - targets == set()
    assert len(named) > 4


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the headings."""
    heads = re.findall(r"^#+ (.*)", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            file = file if file.exists() else file.with_name(f"{file.name}.md")
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []
