"""Write the reference pages of the docs, made from the code: settings, commands, files of a run, events, exit codes.

    python tools/docs_reference.py DIRECTORY

`docs/conf.py` does it for the site, into `docs/reference`, which git ignores.
"""

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from sisa_scale import errors
from sisa_scale.cli.main import cli
from sisa_scale.config.duration import Duration
from sisa_scale.config.loading.load import walk_fields
from sisa_scale.config.loading.strict import section_class
from sisa_scale.config.mixture import MixSource, MixStage
from sisa_scale.config.run import RunConfig
from sisa_scale.config.study import ArchitectureConfig, SizeConfig, StudyConfig
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.profiles.local import LocalProfile
from sisa_scale.launching.profiles.ray import RayProfile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.runs import exit_codes, layout
from sisa_scale.runs.logs.events import EVENTS

SECTIONS: Mapping[str, type] = {
    "Recipes": RunConfig,
    "Studies": StudyConfig,
    "Profiles: this machine": LocalProfile,
    "Profiles: Ray": RayProfile,
    "Profiles: Slurm": SlurmProfile,
    "Profiles: Kubernetes": KubernetesProfile,
}
_WORDS: Mapping[Any, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null",
    Duration: "duration such as `200 steps` or `1e9 tokens`", MixSource: "section", MixStage: "section",
    ArchitectureConfig: "section", SizeConfig: "section",
}  # fmt: skip


def write(directory: Path) -> None:
    """Write every page; a page that has not changed is left alone, so that Sphinx does not read it again."""
    directory.mkdir(parents=True, exist_ok=True)
    pages = {"settings": settings(), "commands": commands(), "run-files": run_files(), "events": events()}
    for name, text in pages.items():
        path = directory / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def settings() -> str:
    """Return every setting with its type, default, bounds and meaning."""
    parts = [
        "# Settings\n\nEvery setting of recipes, studies and profiles. On the command line a key may be shortened to"
        " any ending that is unique. `sisa-scale config explain RECIPE` says where each value of a recipe was set.\n"
    ]
    for title, section in SECTIONS.items():
        parts.append(f"## {title}\n")
        group = None
        for key, field in walk_fields(section):
            if section_class(field.type) is not None:
                continue
            if (first := key.rpartition(".")[0]) != group:
                group = first
                parts.append(f"### {title}: `{group}`\n" if group else f"### {title}: of the file itself\n")
            default = _default(field)
            rule = f"{_type(field.type)}, {'required' if default is None else f'default `{default}`'}"
            parts.append(f"`{key}`\n: {_meaning(field)}\n\n  {rule}\n")
    return "\n".join(parts)


def commands() -> str:
    """Return the help of every command."""
    parts = ["# Commands\n\nWhat `--help` prints.\n"]
    for path, command in every_command():
        context = click.Context(command, info_name=" ".join(("sisa-scale", *path)), terminal_width=100)
        title = " ".join(path) if path else "sisa-scale"
        parts.append(f"{'#' * (2 if len(path) < 2 else 3)} {title}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def every_command() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its words, groups before what they hold."""
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while waiting:
        path, command = waiting.pop(0)
        yield path, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            inner = ((name, command.get_command(context, name)) for name in command.list_commands(context))
            waiting = [((*path, name), found) for name, found in inner if found is not None] + waiting


def run_files() -> str:
    """Return the files of a run directory, as the one module that knows them lists them."""
    return f"# Files of a run\n\n```text\n{inspect.getdoc(layout)}\n```\n"


def events() -> str:
    """Return the kinds of lines in `events.jsonl`, and the exit codes."""
    rows = [f"| `{name}` | {', '.join(f'`{field}`' for field in kind.fields)} |" for name, kind in EVENTS.items()]
    source = inspect.getsource(exit_codes).splitlines()
    on_purpose = [line.partition(" = ")[2].partition("  # ") for line in source if " = " in line and "  # " in line]
    codes = {int(code): meaning for code, _, meaning in on_purpose if code.isdigit()}
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.SisaScaleError):
            codes[error.exit_code] = f"`{error.__name__}`: {(inspect.getdoc(error) or '').splitlines()[0]}"
    codes |= {0: "The command did what it was asked to do.", 130: "A second Ctrl-C."}
    return "\n".join(
        [
            "# Events and exit codes\n\n## Exit codes\n\n| code | meaning |\n|---|---|",
            *(f"| {code} | {_cell(codes[code])} |" for code in sorted(codes)),
            "\n## Events\n\nA line of `events.jsonl` has `event` (the kind), `time`, `attempt` and:\n",
            "| event | fields |\n|---|---|",
            *rows,
            "",
        ]
    )


def _type(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(str(word) for word in options)
    if origin is tuple:
        inner = _type(options[0])
        return f"list of {inner}s" if inner.isalpha() else f"list of ({inner})"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(option) for option in sorted(options, key=lambda option: option is type(None)))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of names to {_type(options[1])}"
    return _WORDS.get(hint) or getattr(hint, "__name__", str(hint))


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return _plain(field.default)
    return _plain(field.default_factory()) if field.default_factory is not dataclasses.MISSING else None


def _plain(value: Any) -> str:
    """Return a default as a recipe has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value) or "''"


def _meaning(field: dataclasses.Field[Any]) -> str:
    meta = field.metadata
    choices = meta.get("choices")
    words = {"minimum": "at least", "maximum": "at most", "above": "above"}
    bounds = [f"{words[name]} {meta[name]}" for name in words if meta.get(name) is not None]
    more = [", ".join(choices())] if choices else []
    return _cell(" ".join([str(meta.get("doc", "")), *(f"({text})" for text in more + bounds)]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
