"""The command lines of README and docs are taken by the real parser, their ``--set`` by the config classes. None is run here.

docs/data.md's commands are also run, by test_docs_data.py.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from foldline import cli
from foldline.errors import FoldlineError
from foldline.export.config import load_export_config
from foldline.trainer.config import load_config

from .docs_pages import PAGES, ROOT, Command, commands

PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")


class RefusedError(Exception):
    """The parser's message."""


def refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
    raise RefusedError(message)


@cache
def parser() -> argparse.ArgumentParser:
    return cli._parser()


def below(sub: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The sub-commands of a parser by name."""
    for action in sub._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def alternatives(words: list[str]) -> list[list[str]]:
    """``build|refit BUNDLE`` -> one list for each sub-command. Of an option's values the first stands for all."""
    choices: list[list[str]] = []
    commanding = True
    for word in words:
        commanding = commanding and re.fullmatch(r"[a-z|-]+", word) is not None
        parts = [part for part in word.split("|") if part] if re.fullmatch(r"[\w|-]+", word) else [word]
        choices.append(parts if commanding else parts[:1])
    return [list(chosen) for chosen in itertools.product(*choices)]


def filled(sub: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """``words`` with a value in place of NAME behind an option that takes numbers or names of its own."""
    full = list(words)
    for index in range(1, len(words)):
        action = sub._option_string_actions.get(words[index - 1])
        if action is None or not PLACEHOLDER.fullmatch(words[index]):
            continue
        if action.choices is not None:
            full[index] = str(next(iter(action.choices)))
        elif action.type not in (None, str, Path):
            full[index] = "1"
    return full


def problems(command: Command) -> list[str]:
    """What the real parser and the config classes have against a command line."""
    found = []
    for words in alternatives(shlex.split(command.text) if command.whole else command.text.replace("'", " ").split()):
        sub, rest = parser(), words
        while below(sub):
            if not rest:
                break
            if rest[0] not in below(sub):
                found.append(f"no command '{rest[0]}'")
                break
            sub, rest = below(sub)[rest[0]], rest[1:]
        else:
            found += unknown_options(sub, rest)
            found += [text for text in refused(sub, words) if command.whole or not re.search("required|expected one argument", text)]
        found += wrong_overrides(rest)
        if "--" in rest:
            found += problems(Command(command.place, shlex.join(rest[rest.index("--") + 1 :]), command.whole))
    return [f"{command.place}: foldline {command.text}: {problem}" for problem in found]


def unknown_options(sub: argparse.ArgumentParser, words: list[str]) -> list[str]:
    own = words[: words.index("--")] if "--" in words else words
    names = [word.split("=")[0] for word in own if word.startswith("--")]
    return [f"no option {name}" for name in names if name not in sub._option_string_actions]


def refused(sub: argparse.ArgumentParser, words: list[str]) -> list[str]:
    try:
        parser().parse_args(filled(sub, words))
    except RefusedError as error:
        return [str(error)]
    return []


def wrong_overrides(words: list[str]) -> list[str]:
    """``--set`` of keys that do not exist, or with values that they do not take."""
    given = [after for word, after in itertools.pairwise(words) if word == "--set"]
    given += [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    found = []
    for override in given:
        try:
            if override.endswith("KEY=VALUE"):
                continue
            if override.startswith("export."):
                load_export_config(None, (override,))
            else:
                load_config(ROOT / "examples" / "demo.toml", [override])
        except FoldlineError as error:
            found.append(str(error))
    return found


@pytest.fixture(autouse=True)
def _messages_instead_of_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)


def test_the_parser_takes_every_command_line() -> None:
    lines = [command for page in PAGES for command in commands(page)]
    assert len(lines) > 100
    assert [problem for command in lines for problem in problems(command)] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foldline fold SOURCE --bundle B --out O --enginee auto", "unrecognized arguments: --enginee"),
        ("foldline train --config run.toml --set optim.learning_rate=1e-3", "unknown key"),
        ("foldline engine build|rebuild BUNDLE …", "no command 'rebuild'"),
        ("foldline submit --nodes N -- train --confg FILE", "required: --config"),
        ("foldline plan --config FILE --nodes four", "not a list of whole numbers"),
    ],
)
def test_a_wrong_command_line_is_found(text: str, message: str) -> None:
    body = text.removeprefix("foldline ")
    assert any(message in problem for problem in problems(Command("page", body.replace("…", ""), "…" not in body)))


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    named = {word for found in re.findall(r"\bfoldline ([a-z|]+)", text) for word in found.split("|")}
    assert set(below(parser())) - named == {"launch"}  # what the scripts of PBS and LSF call: docs/cluster.md
