import dataclasses
import re
import shutil
import warnings
from pathlib import Path

import pytest

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.config import load_config
from sisa_scale.config.duration import Duration
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import CheckpointError, ConfigError, DataError, SisaScaleError, SisaScaleWarning
from sisa_scale.launching.start import _tell_of_rise, begin, check_inputs, join_run, reopen, with_absolute_paths


@pytest.fixture
def tiny(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(tmp_path)
    return load_config(recipe, ["run_dir=runs/tiny"]).config


def test_a_run_begins_once_and_is_reopened_after_that(tiny: RunConfig, tmp_path: Path) -> None:
    begun = begin(tiny)
    assert begun.directory == tmp_path / "runs" / "tiny"
    assert load_config(begun.directory / "config.yaml").config == begun
    with pytest.raises(SisaScaleError, match="runs/tiny"):
        begin(tiny)
    before = {path: path.read_bytes() for path in begun.directory.rglob("*")}
    assert reopen(Path("runs/tiny"), ("learning_rate=1e-4",)).optimizer.learning_rate == 1e-4
    assert {path: path.read_bytes() for path in begun.directory.rglob("*")} == before  # an attempt records, no question
    with pytest.raises(CheckpointError, match=r"found no run"):
        reopen(tmp_path / "nothing", ())


def test_paths_mean_the_same_in_every_process(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "cloze.jsonl").touch()
    changed = dataclasses.replace(
        tiny,
        data=tiny.data.at("data/x"),
        begin_from="runs/before",
        checkpoint=dataclasses.replace(tiny.checkpoint, directory="s3://bucket/run"),
        evaluation=dataclasses.replace(tiny.evaluation, questions_directory="q", lambada_path="cloze.jsonl"),
    )
    found = with_absolute_paths(changed)
    assert (found.data.path, found.begin_from) == (f"{tmp_path}/data/x", f"{tmp_path}/runs/before")
    assert found.checkpoint.directory == "s3://bucket/run"
    assert (found.evaluation.questions_directory, found.evaluation.lambada_path) == (
        f"{tmp_path}/q",
        f"{tmp_path}/cloze.jsonl",
    )
    assert with_absolute_paths(found) == found


def test_nothing_is_made_when_inputs_do_not_fit(tiny: RunConfig, tmp_path: Path) -> None:
    small = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, vocab_size=100))
    for wrong, error in ((tiny, None), (small, SisaScaleError)):
        if error is None:
            assert len(check_inputs(wrong)) > 8
            continue
        with pytest.raises(error):
            begin(wrong)
    with pytest.raises(DataError):
        begin(dataclasses.replace(tiny, data=tiny.data.at("nowhere")))
    assert not (tmp_path / "runs").exists()


def test_only_the_main_worker_claims_and_a_restarted_one_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    overrides = (f"run_dir={run_dir}",)
    assert join_run(str(recipe), overrides, is_main=False).directory == run_dir
    assert not run_dir.exists()
    join_run(str(recipe), overrides, is_main=True)
    with pytest.raises(SisaScaleError):
        join_run(str(recipe), overrides, is_main=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    join_run(str(recipe), overrides, is_main=True)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    assert join_run(str(run_dir), ("learning_rate=1e-4",), is_main=True).optimizer.learning_rate == 1e-4
    moved = run_dir.rename(tmp_path / "moved")
    assert [join_run(str(moved), (), is_main=is_main).directory for is_main in (True, False)] == [moved, moved]


def test_a_copy_does_not_share_checkpoints_with_its_original(tiny: RunConfig, tmp_path: Path) -> None:
    begun = begin(dataclasses.replace(tiny, checkpoint=dataclasses.replace(tiny.checkpoint, directory="elsewhere")))
    (begun.directory / "wandb_id").write_text("one")
    copy = tmp_path / "copy"
    shutil.copytree(begun.directory, copy)
    with pytest.raises(ConfigError, match=r"copy of that run.*checkpoint\.directory=PATH"):
        reopen(copy, ())
    assert reopen(copy, ("checkpoint.directory=of-the-copy",)).checkpoint.directory == f"{tmp_path}/of-the-copy"
    assert not (copy / "wandb_id").exists()
    assert (begun.directory / "wandb_id").exists()


def test_a_decayed_schedule_that_is_lengthened_says_how_far_the_rate_rises(tiny: RunConfig) -> None:
    newest = Manifest(12, 0, to_plain(tiny), "", 1, 1, {}, (), (), optimizer_states={})
    longer = dataclasses.replace(tiny.schedule, total=Duration.parse("40 steps"))
    with pytest.warns(
        SisaScaleWarning, match=r"step 13: the learning rate rises from 0.001 to 0.003 \(3 times"
    ) as told:
        _tell_of_rise(newest, dataclasses.replace(tiny, schedule=longer))
    remedy = re.search(r"`learning_rate=(\S+)`", str(told[0].message))
    assert remedy is not None
    lower = dataclasses.replace(tiny.optimizer, learning_rate=float(remedy[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _tell_of_rise(newest, dataclasses.replace(tiny, schedule=longer, optimizer=lower))
        _tell_of_rise(dataclasses.replace(newest, step=9), dataclasses.replace(tiny, schedule=longer))
