"""What is handed to a cluster: a resolved recipe, a script that begins or continues the run, and a note of the job.

<run directory>/jobs/0001/    one folder for each submission, readable from where it was submitted; of an array, a note
    recipe.yaml               the recipe as it was resolved then
    start.sh                  begins the run, or resumes it when it exists
    job.sbatch, job.yaml      what Slurm or Kubernetes got
    submission.json           target, job id, settings that `logs` and `cancel` need; no secrets
    output.log                what the job prints (Slurm)
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sisa_scale.config.loading.load import dump_yaml, load_config, parse_override
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import ConfigError
from sisa_scale.files import write_json, write_text
from sisa_scale.launching.templates import render
from sisa_scale.runs.layout import JOBS, config_path, holds_run
from sisa_scale.runs.provenance import now
from sisa_scale.runs.recipe import original_of

_PATH_KEYS = (
    "run_dir",
    "begin_from",
    "data.path",
    "data.mix",
    "data.cache_directory",
    "checkpoint.directory",
    "evaluation.lambada_path",
    "evaluation.questions_directory",
)
_NAME = "submission.json"
_MAX_NAME_CHARACTERS = 40
_HASH_CHARACTERS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be started. overrides: what a resume is told; recipe, script: names of its files.

    first: a command that makes the run directory where there is none; the recipe is its last argument.
    """

    config: RunConfig
    overrides: tuple[str, ...]
    recipe: str = "recipe.yaml"
    script: str = "start.sh"
    first: tuple[str, ...] = ()

    def files(
        self, venv: str | None = None, environment: Sequence[str] = (), *, marker: bool = False
    ) -> dict[str, str]:
        """Return the files by name that start the run; `marker` leaves a file `running` while it does."""
        script = render(
            "start.sh.j2",
            run_dir=str(self.config.directory),
            overrides=self.overrides,
            recipe=self.recipe,
            venv=venv,
            environment=environment,
            marker=marker,
            first=self.first,
        )
        return {self.recipe: dump_yaml(self.config), self.script: script}


@dataclass(frozen=True, slots=True)
class Submission:
    """The note of a submission.

    run_dir, inode: the directory that it was left in, which a copy of that directory does not have.
    """

    target: str
    job_id: str
    folder: str
    settings: dict[str, Any] = field(default_factory=dict)
    submitted: str = ""
    run_dir: str = ""
    inode: int = 0


def resume_overrides(config: RunConfig, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return overrides that mean the same wherever they are read: paths as they stand in `config`."""
    told = []
    for override in overrides:
        keys = list(parse_override(override))
        changed = [key for key in _PATH_KEYS if any(k == key or k.startswith(f"{key}.") for k in keys)]
        told += [f"{key}={json.dumps(_plain(config, key))}" for key in changed if key != "run_dir"]
        if not changed:
            told.append(override)
    return tuple(dict.fromkeys(told))


def check_same_run(config: RunConfig) -> bool:
    """Whether the run exists already; raises ConfigError if it is another model or another seed."""
    path = config_path(config.directory)
    if not path.exists():
        return False
    before = load_config(path).config
    for key in ("model", "seed"):
        if getattr(before, key) != getattr(config, key):
            raise ConfigError.at(
                config.directory,
                found=f"a run with another {key}",
                allowed=f"a run keeps its {key}; submitting it again continues it",
                remedy="Choose another directory with run_dir=PATH.",
            )
    return True


def check_visible(config: RunConfig, node_local_paths: Sequence[str]) -> None:
    """Raise ConfigError for a path that other nodes do not see."""
    paths = {
        "run_dir": str(config.directory),
        "begin_from": config.begin_from,
        "checkpoint.directory": config.checkpoint.directory,
    }
    paths |= {f"data source {name}": source.path for name, source in config.data.sources.items()}
    for name, path in paths.items():
        for folder in node_local_paths:
            if path is not None and Path(path).is_relative_to(folder):
                raise ConfigError.at(
                    name,
                    found=path,
                    allowed=f"a path that every node sees; {folder} is each node's own (node_local_paths)",
                    remedy="Move it to shared storage.",
                )


def new_folder(run_dir: Path) -> Path:
    """Return jobs/0001, or the first number after those that are there; nothing is made."""
    numbers = [int(path.name) for path in (run_dir / JOBS).glob("[0-9]*") if path.name.isdigit()]
    return run_dir.absolute() / JOBS / f"{max(numbers, default=0) + 1:04d}"


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write the files of a submission; raises ConfigError when another submission has just taken the folder."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError.at(
            folder,
            found="another submission of the same run",
            allowed="one job of a run at a time",
            remedy="Look at it with `sisa-scale logs`; submit again when it is over.",
        ) from None
    for name, text in files.items():
        write_text(folder / name, text)


def save_submission(folder: Path, target: str, job_id: str, settings: dict[str, Any]) -> Submission:
    """Note what was submitted."""
    submission = _left_in(folder.parent.parent, Submission(target, job_id, str(folder), settings, now()))
    write_json(folder / _NAME, asdict(submission))
    return submission


def note_runs(submission: Submission, run_dirs: Sequence[Path]) -> None:
    """Leave a note of a submission in the directory of each of its runs, which is a task of it."""
    for task, run_dir in enumerate(run_dirs):
        folder = new_folder(run_dir)
        folder.mkdir(parents=True)
        own = {"task": task} if len(run_dirs) > 1 else {}
        note = _left_in(run_dir, replace(submission, settings={**submission.settings, **own}))
        write_json(folder / _NAME, asdict(note))


def submissions(run_dir: Path) -> list[Submission]:
    """Return the notes of all submissions of a run or a study, the newest first; a copy has none of its original's."""
    return [note for note in _notes(run_dir) if _is_own(note, run_dir)]


def newest_submission(run_dir: Path) -> Submission:
    """Return the note of the newest submission of a run; raises ConfigError when there is none."""
    found, noted = submissions(run_dir), _notes(run_dir)
    if not found and noted:
        job = f"job {noted[0].job_id} of {noted[0].target}"
        raise ConfigError.at(
            run_dir,
            found=f"notes of jobs that were submitted in {noted[0].run_dir or 'another directory'}, the newest {job}",
            allowed="a copy of a run acts on no job of its original",
            remedy=f"Name that directory instead; if the run was moved to another disk, ask {noted[0].target} itself.",
        )
    if not found:
        raise ConfigError.at(
            run_dir,
            found="no submission",
            allowed="a directory that `sisa-scale submit` printed",
            remedy="Check the path, or submit the run.",
        )
    return found[0]


def _notes(run_dir: Path) -> list[Submission]:
    paths = sorted((run_dir / JOBS).glob(f"[0-9]*/{_NAME}"), key=lambda path: int(path.parent.name), reverse=True)
    return [_where_it_lies(Submission(**json.loads(path.read_text())), path.parent) for path in paths]


def _where_it_lies(note: Submission, folder: Path) -> Submission:
    """Return a note with the folder of its files where that is, should its run have been moved."""
    is_inside = bool(note.run_dir) and Path(note.folder).parent.parent.resolve() == Path(note.run_dir)
    return replace(note, folder=str(folder.absolute())) if is_inside else note


def _left_in(run_dir: Path, note: Submission) -> Submission:
    return replace(note, run_dir=str(run_dir.resolve()), inode=run_dir.stat().st_ino)


def _is_own(note: Submission, run_dir: Path) -> bool:
    """Whether a note was left in this directory, wherever that has been moved; not in one that this is a copy of."""
    if not note.run_dir:  # of an earlier version
        return not holds_run(run_dir) or original_of(run_dir) is None
    return Path(note.run_dir) == run_dir.resolve() or note.inode == run_dir.stat().st_ino


def job_name(name: str, max_characters: int = _MAX_NAME_CHARACTERS) -> str:
    """Return a name that Slurm and Kubernetes accept: small letters, digits and dashes, a letter first."""
    word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    word = word if word[:1].isalpha() else f"run-{word}"
    return word[:max_characters].rstrip("-")


def unique_name(name: str, identity: str) -> str:
    """Return such a name that no other identity gets, whatever is cut off and whatever letters the name has."""
    word = job_name(name, _MAX_NAME_CHARACTERS - _HASH_CHARACTERS - 1)
    return f"{word}-{short_hash(identity)}"


def short_hash(text: str) -> str:
    """Return ten letters and digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]


def _plain(config: RunConfig, key: str) -> Any:
    value: Any = to_plain(config)
    for part in key.split("."):
        value = value[part]
    return value
