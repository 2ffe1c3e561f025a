"""The docs are true: links lead somewhere, commands parse, settings exist, YAML loads."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from sisa_scale.cli.main import cli
from sisa_scale.config.loading.load import load_config, parse_override, walk_fields
from sisa_scale.config.run import RunConfig
from sisa_scale.config.study import StudyConfig
from sisa_scale.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
RECIPE_COMMANDS = ("train", "plan", "submit", "worker", "config")
SECTIONS = (
    "model",
    "data",
    "optimizer",
    "schedule",
    "execution",
    "resources",
    "checkpoint",
    "evaluation",
    "observation",
    "guard",
    "watchdog",
)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of every fenced block of a page."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of every `sisa-scale` command in the blocks of a page."""
    for language, text in blocks(page):
        if language not in ("", "bash"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("sisa-scale "):
                optional = re.sub(r"\[(-[^\]]*)\](?=\s|$)", r"\1", line)
                words = [word for word in shlex.split(optional, comments=True) if word != "..."]
                stops = [number for number, word in enumerate(words) if word in ("|", "&&", "&", ">", ";")]
                yield words[1 : stops[0] if stops else None]


def parse(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words that name a command, and its arguments; raises UsageError for what the command does not know."""
    command: click.Command = cli
    path: list[str] = []
    while isinstance(command, click.Group):
        context = click.Context(command)
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]!r}")
        path.append(words[0])
        command, words = found, words[1:]
    found_by_name, extra, _ = command.make_parser(click.Context(command)).parse_args(list(words))
    arguments: list[str] = []
    for parameter in command.params:
        value = found_by_name.get(parameter.name or "")
        values = [value] if isinstance(value, str) else list(value) if isinstance(value, tuple | list) else []
        if parameter.required and not values and value is not True:
            raise click.UsageError(f"{' '.join(path)} needs {parameter.name}")
        if isinstance(parameter, click.Argument):
            arguments += [one for one in values if isinstance(one, str)]
    if extra:
        raise click.UsageError(f"{' '.join(path)} does not take {extra}")
    return path, arguments


COMMANDS = [(page.name, words) for page in PAGES for words in command_lines(page)]


def test_pages_have_commands() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join([page, *words[:3]]) for page, words in COMMANDS])
def test_commands_parse_and_their_settings_exist(page: str, words: list[str]) -> None:
    path, arguments = parse(words)
    if path[0] not in RECIPE_COMMANDS or "--study" in words:
        return
    recipe, *overrides = [word for word in arguments if not word.startswith("[")]
    if (ROOT / "recipes" / f"{recipe}.yaml").is_file():
        load_config(recipe, overrides)
    for override in overrides:
        key = next(iter(parse_override(override)))
        assert key in dict(walk_fields(RunConfig)) or key.startswith("data.mix."), override


def test_a_wrong_command_is_found() -> None:
    for words in (["trian", "x"], ["train"], ["plan", "quickstart", "--gpus-count", "3"]):
        with pytest.raises((click.UsageError, ConfigError)):
            parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_yaml_and_python_load(page: Path) -> None:
    for language, text in blocks(page):
        if language == "yaml":
            assert all(yaml.safe_load_all(text))
        if language == "python":
            compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page: Path) -> None:
    known = {key for section in (RunConfig, StudyConfig) for key, _ in walk_fields(section)}
    named = re.findall(
        rf"`((?:{'|'.join(SECTIONS)})(?:\.[a-z0-9_]+)+)(?:[:=][^`]*)?`", page.read_text(encoding="utf-8")
    )
    unknown = {name for name in named if name not in known and not name.endswith((".py", ".jsonl"))}
    assert not unknown - MODULES - ADDED


ADDED = {"model.linear_attention"}  # by the example of docs/extending-mixer.md
MODULES = {  # of this package, not settings
    ".".join(path.relative_to(ROOT / "sisa_scale").with_suffix("").parts)
    for path in (ROOT / "sisa_scale").rglob("*.py")
}


def test_pages_are_short() -> None:
    long = {page.name: lines for page in PAGES if (lines := len(page.read_text().splitlines())) > 250}
    assert not long
    assert len((ROOT / "README.md").read_text().split()) < 950


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", ROOT / "docs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "settings.html").read_text()
    for key, _ in walk_fields(RunConfig):
        assert key.rpartition(".")[2] in page
    assert "sisa-scale study submit" in (tmp_path / "reference" / "commands.html").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text()))
def test_links_of_the_readme_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
