import json
from dataclasses import replace
from pathlib import Path

import pytest
from run_lines import step_row
from study_cases import write_study

from sisa_scale.checkpoint.manifest import FileInfo, Manifest
from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config.loading.load import load_config
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.config.study import load_study
from sisa_scale.errors import CheckpointError
from sisa_scale.files import sha256_file
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.studies.branching import begin_branch
from sisa_scale.studies.expansion import expand
from sisa_scale.studies.trial import Trial
from sisa_scale.training.record import record


@pytest.fixture
def trunk_and_branch(tmp_path: Path) -> tuple[Trial, Trial]:
    trials = {trial.name: trial for trial in expand(load_study(write_study(tmp_path, Path("data/none"))))}
    trunk, branch = trials["sisa-s-5.12K"], trials["sisa-s-2.56K"]
    run = RunDirectory(trunk.directory)
    run.path.mkdir(parents=True)
    record(run, trunk.config, "f" * 64)
    for step in range(1, 21):
        run.add_step(step_row(step))
    with (run.path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 2')  # torn by a crash
    write_checkpoint(trunk.config, 8)
    return trunk, branch


def write_checkpoint(config: RunConfig, step: int) -> None:
    store = CheckpointStore(config.directory)
    store.claim()
    name = "rank_00000.safetensors"
    with store.place.create(store.part_name(step, 0)) as stream:
        stream.write(b"weights")
    part = store.place.location(store.part_name(step, 0))
    info = FileInfo(name, 7, sha256_file(Path(part)))
    manifest = Manifest(
        step=step,
        tokens=step * 256,
        config=to_plain(config),
        data_fingerprint="f" * 64,
        world_size=1,
        zero_stage=0,
        shapes={},
        slices=(),
        files=(info,),
        skipped_steps=0,
        optimizer_states={"norm.weight": ("exp_avg", "exp_avg_sq")},
    )
    store.commit(step, manifest)


def test_a_branch_is_a_run_that_goes_on_from_the_step(trunk_and_branch: tuple[Trial, Trial]) -> None:
    trunk, branch = trunk_and_branch
    note = branch.directory / "jobs" / "0001" / "submission.json"  # it was submitted before its trunk was there
    note.parent.mkdir(parents=True)
    note.touch()
    begin_branch(trunk.directory, 8, branch.config)
    assert note.exists()
    assert load_config(branch.directory / "config.yaml").config == branch.config
    store = CheckpointStore(branch.directory)
    assert store.steps() == [8]
    assert (store.path(8) / "rank_00000.safetensors").read_bytes() == b"weights"
    lines = [json.loads(line) for line in (branch.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {line["attempt"] for line in lines} == {0}
    assert RunDirectory(branch.directory).attempts() == []
    (event,) = RunDirectory(branch.directory).events()
    assert (event["event"], event["step"]) == ("branch", 8)


def test_removing_the_trunk_leaves_the_branch_whole(trunk_and_branch: tuple[Trial, Trial]) -> None:
    trunk, branch = trunk_and_branch
    begin_branch(trunk.directory, 8, branch.config)
    CheckpointStore(trunk.directory).remove(8)
    assert (CheckpointStore(branch.directory).path(8) / "rank_00000.safetensors").read_bytes() == b"weights"


def test_a_branch_that_exists_is_left_as_it_is(trunk_and_branch: tuple[Trial, Trial]) -> None:
    trunk, branch = trunk_and_branch
    begin_branch(trunk.directory, 8, branch.config)
    (branch.directory / "metrics.jsonl").write_text("")
    begin_branch(trunk.directory, 8, branch.config)
    assert (branch.directory / "metrics.jsonl").read_text() == ""


def test_what_a_crash_left_is_begun_anew(trunk_and_branch: tuple[Trial, Trial]) -> None:
    trunk, branch = trunk_and_branch
    staging = branch.directory.with_name(f".{branch.directory.name}.branch")
    (staging / "checkpoints" / "step_00000008").mkdir(parents=True)
    (staging / "metrics.jsonl").write_text("half a li")
    begin_branch(trunk.directory, 8, branch.config)
    assert not staging.exists()
    assert len((branch.directory / "metrics.jsonl").read_text().splitlines()) == 8


def test_a_trunk_without_that_checkpoint_is_refused(trunk_and_branch: tuple[Trial, Trial]) -> None:
    trunk, branch = trunk_and_branch
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 9 \(there are \[8\]\)"):
        begin_branch(trunk.directory, 9, branch.config)
    assert not branch.directory.exists()


def test_a_trunk_of_another_order_is_refused(trunk_and_branch: tuple[Trial, Trial]) -> None:
    trunk, branch = trunk_and_branch
    with pytest.raises(CheckpointError, match=r"seed: found 1"):
        begin_branch(trunk.directory, 8, replace(branch.config, seed=1))
    assert not branch.directory.exists()
