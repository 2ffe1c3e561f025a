"""The docs are true: links lead somewhere, commands parse, settings exist, YAML loads."""

import configparser
import re
import shlex
import shutil
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
from sisa_scale.errors import CheckpointError, ConfigError, DataError, TrainingError
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.profiles.ray import RayProfile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.runs.exit_codes import PREEMPTED
from sisa_scale.runs.stop_request import SIGNAL_GRACE_SECONDS

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
        for whole in text.replace("\\\n", " ").splitlines():
            line = re.sub(r"^(srun|kubectl exec)( -\S+| data)* (?=sisa-scale )", "", whole)
            if line.startswith("sisa-scale "):
                optional = re.sub(r"\[(-[^\]]*)\](?=\s|$)", r"\1", line)
                words = [word for word in shlex.split(optional, comments=True) if word != "..."]
                stops = [number for number, word in enumerate(words) if word in ("|", "&&", "&", ">", ";")]
                yield words[1 : stops[0] if stops else None]


def test_the_unit_for_systemd_lets_the_command_save(tmp_path: Path) -> None:
    (text,) = (text for language, text in blocks(ROOT / "docs/running.md") if language == "ini")
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]
    assert service["KillMode"] == "mixed"  # the signal goes to the command, not to Ray
    assert float(service["TimeoutStopSec"]) > SIGNAL_GRACE_SECONDS
    assert {service["SuccessExitStatus"], service["RestartForceExitStatus"]} == {str(PREEMPTED)}
    errors = (ConfigError, DataError, CheckpointError, TrainingError)
    assert service["RestartPreventExitStatus"].split() == [str(error.exit_code) for error in errors]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "sisa-scale"
    assert parse(words)[0] == ["submit"]
    if shutil.which("systemd-analyze"):
        (tmp_path / "run.service").write_text(text.replace(program, sys.executable))
        command = ["systemd-analyze", "verify", str(tmp_path / "run.service")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert done.stderr == ""  # what it does not understand it ignores, and says so


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


@pytest.fixture(scope="module")
def tests() -> dict[str, str]:
    """The files of tests, by path below tests/."""
    return {str(path.relative_to(ROOT / "tests")): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_are_named_exist(page: Path, tests: dict[str, str]) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.-])(?:cluster|tests|tools|recipes|sisa_scale)/[\w./-]*\w", text)
    assert not {path for path in paths if not (ROOT / path).exists()} - {"cluster/spool"}  # an example adds it
    for file, name in re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)?(?:::(test_\w+))?`", text):
        assert not file or file in tests, file
        assert not name or any(f"def {name}(" in source for source in tests.values()), name


def test_profiles_and_the_volume_of_the_cluster_pages_fit(tmp_path: Path) -> None:
    loaded = []
    for target, name in (("slurm", "start-slurm"), ("kubernetes", "start-kubernetes"), ("ray", "start-ray")):
        page = ROOT / "docs" / f"{name}.md"
        for text in (text for language, text in blocks(page) if language == "yaml"):
            if "extends:" in text:
                (tmp_path / "mine.yaml").write_text(text)
                loaded.append(load_profile(target, str(tmp_path / "mine.yaml"), ()))
            else:
                claim, pod = yaml.safe_load_all(text)
    assert [type(profile) for profile in loaded] == [SlurmProfile] * 2 + [KubernetesProfile] * 2 + [RayProfile]
    for profile in loaded:
        if isinstance(profile, KubernetesProfile):
            assert claim["metadata"]["name"] == profile.storage.claim
            assert pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == profile.storage.mount_path
            assert pod["spec"]["containers"][0]["image"] == profile.image
            assert pod["spec"]["securityContext"]["fsGroup"] == profile.user_id
