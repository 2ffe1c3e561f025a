"""Generated scripts through a real bash: whatever a user writes arrives as it was written."""

import dataclasses
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hostile import HOSTILE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sisa_scale.config import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.submission import (
    Job,
    check_same_run,
    check_visible,
    job_name,
    new_folder,
    newest_submission,
    note_runs,
    resume_overrides,
    save_submission,
    submissions,
    unique_name,
    write_files,
)

# What a file name and a command line can hold; a surrogate is no text.
TEXT = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",)), min_size=1, max_size=20)
RECORDER = '#!/bin/bash\nprintf "%s\\0" "$@" > "$RECORD"\n'


def run_script(job: Job, root: Path, *arguments: str, **options: object) -> list[str]:
    """Run start.sh with a `sisa-scale` that notes its arguments."""
    for name, text in job.files(**options).items():  # type: ignore[arg-type]
        (root / name).write_text(text, encoding="utf-8")
    (root / "bin").mkdir(exist_ok=True)
    (root / "bin" / "sisa-scale").write_text(RECORDER)
    (root / "bin" / "sisa-scale").chmod(0o755)
    environment = {"PATH": f"{root}/bin:/usr/bin:/bin", "RECORD": str(root / "record")}
    subprocess.run(["bash", str(root / "start.sh"), *arguments], check=True, env=environment, cwd=root)
    return (root / "record").read_bytes().decode().split("\0")[:-1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(TEXT | st.sampled_from(HOSTILE), min_size=1, max_size=4), name=TEXT | st.sampled_from(HOSTILE))
def test_scripts_pass_every_value_on_unchanged(values: list[str], name: str, config: RunConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / f"run {name}"
        run_dir.mkdir()
        job = Job(dataclasses.replace(config, run_dir=str(run_dir)), tuple(f"description={value}" for value in values))
        assert run_script(job, Path(folder), "more=1") == ["train", f"{folder}/recipe.yaml", "more=1"]
        (run_dir / "config.yaml").touch()
        assert run_script(job, Path(folder), "more=1") == ["resume", str(run_dir), *job.overrides, "more=1"]
        assert run_script(job, Path(folder), marker=True) == ["resume", str(run_dir), *job.overrides]
        assert not (run_dir / "running").exists()
        assert load_config(Path(folder) / "recipe.yaml").config.run_dir == str(run_dir)
        assert not list(Path(folder).rglob("injected"))


def test_paths_of_overrides_mean_the_same_elsewhere(config: RunConfig) -> None:
    told = resume_overrides(config, ["path=../x", "learning_rate=1e-3", "run_dir=y", "learning_rate=1e-3"])
    assert told == ('data.path="/data/x"', "learning_rate=1e-3")


def test_paths_that_nodes_do_not_share_are_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="every node sees"):
        check_visible(config, ["/data"])
    check_visible(config, ["/dat"])


def test_another_model_in_the_same_directory_is_refused(config: RunConfig, tmp_path: Path) -> None:
    here = dataclasses.replace(config, run_dir=str(tmp_path))
    assert not check_same_run(here)
    (tmp_path / "config.yaml").write_text(Job(here, ()).files()["recipe.yaml"])
    assert check_same_run(here)
    with pytest.raises(ConfigError, match="another seed"):
        check_same_run(dataclasses.replace(here, seed=1))


def test_submissions_are_numbered_and_the_newest_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no submission"):
        newest_submission(tmp_path)
    for number in range(1, 12):
        folder = new_folder(tmp_path)
        assert folder.name == f"{number:04d}"
        folder.mkdir(parents=True)
        save_submission(folder, "slurm", str(number), {"num_tasks": 1})
    assert newest_submission(tmp_path).job_id == "11"


def test_a_copy_has_none_of_its_originals_jobs_and_a_moved_run_keeps_them(tmp_path: Path) -> None:
    run_dir, copy, study = tmp_path / "run", tmp_path / "copy", tmp_path / "study"
    alone, array = run_dir / "jobs" / "0001", study / "jobs" / "0001"
    for folder in (alone, array):
        folder.mkdir(parents=True)
    save_submission(alone, "slurm", "12", {})
    note_runs(save_submission(array, "slurm", "13", {}), [run_dir])
    shutil.copytree(run_dir, copy)
    assert submissions(copy) == []
    with pytest.raises(ConfigError, match=rf"submitted in {run_dir}, the newest job 13 of slurm.*Name that directory"):
        newest_submission(copy)
    assert new_folder(copy).name == "0003"
    moved = run_dir.rename(tmp_path / "moved")
    found = [(note.job_id, note.folder) for note in submissions(moved)]
    assert found == [("13", str(array)), ("12", str(moved / "jobs" / "0001"))]
    moved.rename(run_dir)

    for path in copy.rglob("submission.json"):  # as earlier versions left them
        note = json.loads(path.read_text())
        path.write_text(json.dumps({key: note[key] for key in note if key not in ("run_dir", "inode")}))
    assert len(submissions(copy)) == 2
    for place in (run_dir, copy):
        (place / "config.yaml").write_text(f"run_dir: {run_dir}\n")
    assert submissions(copy) == []


@given(st.text(max_size=80))
def test_names_fit_slurm_and_kubernetes(name: str) -> None:
    word = job_name(name)
    assert 0 < len(word) <= 40
    assert word[0].isalpha() and word[-1].isalnum()
    assert set(word) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(st.text(max_size=80), st.text(max_size=80))
def test_names_of_two_runs_are_never_one(name: str, other: str) -> None:
    first = unique_name(name, "ada:/runs/a")
    assert len(first) <= 40
    assert first[0].isalpha() and set(first) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert first != unique_name(name, "ada:/runs/b")
    assert first != unique_name(other, "bob:/runs/a")
    assert first == unique_name(name, "ada:/runs/a")


def test_two_submissions_at_once_are_one_error(tmp_path: Path) -> None:
    write_files(tmp_path / "jobs" / "0001", {})
    with pytest.raises(ConfigError, match="one job of a run at a time"):
        write_files(tmp_path / "jobs" / "0001", {})
