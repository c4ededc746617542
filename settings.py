"""Frozen dataclasses from TOML files and ``--set a.b=c`` overrides: typed, with presets, unknown keys refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from .errors import FoldlineError

T = TypeVar("T")
_LISTED = 40  # names in a message


def load(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read ``path`` (TOML) as ``cls``; each override is ``dotted.key=value`` with a TOML value (a bare word is a string).

    Raises FoldlineError for a missing or malformed file, an unknown key (naming the nearest valid one) and a wrong type.
    """
    data = read_toml(path)
    for override in overrides:
        _apply(data, override)
    return from_dict(cls, data, str(path))


def load_or_default(cls: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """``load``; without a file the defaults of ``cls`` under the overrides."""
    if path is not None:
        return load(cls, path, overrides)
    data: dict[str, Any] = {}
    for override in overrides:
        _apply(data, override)
    return from_dict(cls, data, "--set")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the TOML file at ``path``. Raises FoldlineError for a missing or malformed file."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise FoldlineError(f"no config file at {path}; give --config a TOML file") from None
    except OSError as error:
        raise FoldlineError(f"{path} cannot be read: {error}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FoldlineError(f"{path} is not valid TOML: {error}") from None


def from_dict(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build ``cls`` from nested mappings; ``where`` names their source in errors.

    A key ``preset`` starts from ``cls.PRESETS[name]()``: an object of the class, or a mapping in the form of ``data``, over which ``data``
    is laid key by key before any preset further inside is resolved.
    """
    from pydantic import TypeAdapter, ValidationError

    complete = _with_presets(cls, data, where, "")
    endless = [f"{key} = {value}" for key, value in flatten(complete).items() if isinstance(value, float) and not math.isfinite(value)]
    if endless:
        raise FoldlineError(f"{where}: {', '.join(endless)}; give a finite number")
    try:
        return TypeAdapter(cls).validate_json(json.dumps(complete), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}, not {e['input']!r}" for e in error.errors()]
        raise FoldlineError(f"{where}: " + "; ".join(lines)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """The JSON form that ``from_dict`` reads back to an equal object."""
    return dict(json.loads(json.dumps(dataclasses.asdict(config))))


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted keys, the form of MLflow parameters."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _apply(data: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise FoldlineError(f"--set {override!r} is not of the form key.sub=value")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise FoldlineError(f"--set {override!r}: '{parent}' is a value, not a table")
    data[last] = value


def _with_presets(cls: type, data: Any, where: str, path: str) -> Any:
    """Check every key against ``cls`` and lay ``data`` over its preset, recursively."""
    if not isinstance(data, Mapping):
        return data
    hints = get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    presets = getattr(cls, "PRESETS", {})
    base: dict[str, Any] = {}
    data = dict(data)
    if presets and "preset" in data:
        name = data.pop("preset")
        if name not in presets:
            raise FoldlineError(f"{where}: {path}preset = {name!r} is not a preset; {nearest(str(name), presets)}")
        start = presets[name]()
        if isinstance(start, Mapping):
            data = _overlaid(start, data)
        else:
            base = to_dict(start)
    for key, value in data.items():
        if key not in fields:
            raise FoldlineError(f"{where}: unknown key '{path}{key}'; {nearest(key, fields)}")
        if dataclasses.is_dataclass(fields[key]) and isinstance(value, Mapping):
            value = {**base[key], **value} if isinstance(base.get(key), Mapping) and "preset" not in value else value
            value = _with_presets(fields[key], value, where, f"{path}{key}.")  # type: ignore[arg-type]
        base[key] = value
    return base


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` in their places, tables within tables."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _overlaid(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def nearest(name: str, valid: Mapping[str, Any] | Sequence[str]) -> str:
    """'did you mean …' with the closest valid name, or the list of valid names, of many only the first."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(names[:_LISTED])}" + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")
