import dataclasses
from pathlib import Path

import pytest

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.config import load_config
from sisa_scale.config.optimizers.adamw import ADAMW
from sisa_scale.config.optimizers.muon import MUON
from sisa_scale.config.optimizers.table import OPTIMIZERS
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.errors import CheckpointError, ConfigError, DataError
from sisa_scale.training.resume_rules import (
    check_resumable,
    check_tokenizer,
    locked_settings,
    lost_states,
    tokenizer_of,
)

FINGERPRINT = "a" * 64
STATES = {"w": ("exp_avg", "exp_avg_sq")}


@pytest.fixture
def manifest() -> Manifest:
    plain = to_plain(load_config("quickstart").config)
    return Manifest(100, 409_600, plain, FINGERPRINT, 2, 1, {}, (), (), optimizer_states=STATES)


def check(manifest: Manifest, *overrides: str, fingerprint: str | None = FINGERPRINT) -> None:
    check_resumable(Path("run"), manifest, load_config("quickstart", overrides).config, fingerprint)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["workers=1", "device=cpu"],
        ["zero_stage=3", "precision=fp32", "micro_batch_sequences=4", "activation_checkpointing=full"],
        ["data.path=elsewhere"],
        ["data.path=s3://elsewhere", "cache_directory=near", "cache_bytes=1e9", "loader_workers=4", "on_corrupt=skip"],
        ["schedule.total=400 steps", "schedule.kind=cosine", "learning_rate=1e-4"],
        ["name=other", "run_dir=other", "max_failures=0", "checkpoint.every_steps=7"],
    ],
)
def test_how_and_where_may_change(manifest: Manifest, overrides: list[str]) -> None:
    check(manifest, *overrides)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["seed=1"], ["seed"]),
        (["data.seed=1"], ["data.seed"]),
        (["d_ff=100", "global_batch_tokens=8192"], ["data.global_batch_tokens", "model.d_ff"]),
        (["d_s=32", "decay_range_nats=70"], ["model.sisa.d_s", "model.sisa.decay_range_nats"]),
        (["sequence_tokens=128", "needle_lengths=[64]"], ["data.sequence_tokens"]),
    ],
)
def test_what_is_trained_may_not(manifest: Manifest, overrides: list[str], keys: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(manifest, *overrides)
    assert [problem.where for problem in caught.value.problems] == [f"run {key}" for key in keys]
    assert all(override.partition("=")[2] in str(caught.value) for override in overrides if "needle" not in override)


def test_a_ramp_stays_as_it_is(manifest: Manifest) -> None:
    ramp = "global_batch_ramp=[{until: 200 steps, global_batch_tokens: 2048}]"
    with pytest.raises(CheckpointError, match=r"run data\.global_batch_ramp: found .*200 steps.*begun with \[\]"):
        check(manifest, ramp, "micro_batch_sequences=4")


def test_another_architecture_is_refused(manifest: Manifest) -> None:
    with pytest.raises(CheckpointError, match=r"run model\.kind: found transformer; the run was begun with sisa"):
        check(manifest, "model.kind=transformer", "model.sisa=null")


def test_the_data_are_known_by_their_fingerprint(manifest: Manifest) -> None:
    with pytest.raises(CheckpointError, match=r"bbbbbbbbbbbb\.\.\.; the run was begun on aaaaaaaaaaaa\.\.\."):
        check(manifest, "data.path=elsewhere", fingerprint="b" * 64)
    check(manifest, "data.path=elsewhere", fingerprint=None)


def test_all_differences_are_listed_at_once(manifest: Manifest) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(manifest, "seed=1", "data.seed=2", "d_ff=100", fingerprint="b" * 64)
    assert len(caught.value.problems) == 4
    assert caught.value.exit_code == 4


def test_model_data_and_seed_are_locked_whole() -> None:
    plain = to_plain(load_config("quickstart").config)
    locked = locked_settings(plain)
    assert {key.split(".")[0] for key in locked} == {"seed", "model", "data"}
    free = {"path", "loader_workers", "cache_directory", "cache_bytes", "on_corrupt"}
    assert {key.partition(".")[2] for key in locked if key.startswith("data.")} == plain["data"].keys() - free
    assert locked["model.sisa.d_s"] == 16


def test_stages_that_lie_ahead_may_change(tmp_path: Path) -> None:
    recipe = tmp_path / "mix.yaml"
    sources = "{a: {path: x, weight: 1}, b: {path: y, weight: 1, max_epochs: 1}}"
    recipe.write_text(f"extends: quickstart\ndata: {{path: null, mix: {sources}}}\n")
    early, late = (f"{{from: {step} steps, weights: {{a: 1, b: 3}}}}" for step in (50, 100))

    def load(*overrides: str) -> RunConfig:
        return load_config(recipe, overrides).config

    begun = to_plain(load(f"data.stages=[{early}]"))
    manifest = Manifest(
        100,
        0,
        begun,
        FINGERPRINT,
        2,
        1,
        {},
        (),
        (),
        optimizer_states=STATES,
    )
    moved = ("data.mix.a.path=elsewhere", "data.mix.b.max_epochs=3")
    check_resumable(Path("run"), manifest, load(f"data.stages=[{early}, {late}]", *moved), FINGERPRINT)
    for overrides in ([], [f"data.stages=[{late}]"], [f"data.stages=[{early}]", "data.mix.a.weight=2"]):
        with pytest.raises(CheckpointError, match=r"data\.(stages|mix\.a\.weight)"):
            check_resumable(Path("run"), manifest, load(*overrides), FINGERPRINT)


def test_settings_younger_than_the_checkpoint_do_not_matter(manifest: Manifest) -> None:
    del manifest.config["model"]["position"], manifest.config["model"]["sisa"]["form"]
    check(manifest)
    with pytest.raises(CheckpointError, match=r"model\.position"):
        check(manifest, "model.position=none")


HIDDEN = "blocks.0.mlp.down.weight"


@pytest.fixture
def of_two(manifest: Manifest) -> Manifest:
    """A checkpoint of AdamW with a vector and a hidden matrix."""
    shapes = {"norm.weight": [4], HIDDEN: [4, 9]}
    return dataclasses.replace(manifest, shapes=shapes, optimizer_states=ADAMW.stored_states(shapes))


def test_another_optimizer_is_refused_until_it_is_asked_for(of_two: Manifest) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(of_two, "optimizer.kind=muon")
    (problem,) = caught.value.problems
    assert str(problem).startswith(
        "run optimizer.kind: found muon; the checkpoint has the states of adamw; "
        "muon would give up exp_avg of 1 weight, exp_avg_sq of 1 weight. Write adamw, or optimizer.replaces=adamw "
    )
    check(of_two, "optimizer.kind=muon", "optimizer.replaces=adamw")
    with pytest.raises(CheckpointError, match="states of adamw"):
        check(of_two, "optimizer.kind=muon", "optimizer.replaces=muon")
    check(of_two, "optimizer.replaces=muon")  # which is long done
    del of_two.config["optimizer"]["kind"]  # of before there was a choice
    check(of_two)


def test_what_is_given_up_is_counted(of_two: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "other", ADAMW)
    assert lost_states(of_two, load_config("quickstart", ["optimizer.kind=other"]).config) == ""
    of_muon = dataclasses.replace(of_two, optimizer_states=MUON.stored_states(of_two.shapes))
    assert lost_states(of_muon, load_config("quickstart").config) == "momentum of 1 weight"
    assert lost_states(of_muon, load_config("quickstart", ["optimizer.kind=muon"]).config) == ""


def test_an_optimizer_that_is_not_there_is_named() -> None:
    for key in ("kind", "replaces"):
        with pytest.raises(ConfigError, match=rf"optimizer\.{key}: found muonn; must be one of adamw, muon"):
            load_config("quickstart", [f"optimizer.{key}=muonn"])


def test_a_new_run_reads_text_as_its_weights_were_trained_to(manifest: Manifest, dataset: Path, recipe: Path) -> None:
    data = load_manifest(str(dataset))
    check_tokenizer("a", dataclasses.replace(manifest, tokenizer_sha256=data.tokenizer.sha256), [data])
    with pytest.raises(DataError, match="the same ids mean other text"):
        check_tokenizer("a", dataclasses.replace(manifest, tokenizer_sha256="b" * 64), [data])
    # A checkpoint of an earlier version does not say, but its data set does, as long as it is the same.
    config = load_config(recipe).config
    fingerprint = TokenStream(config.data).fingerprint
    older = dataclasses.replace(manifest, config=to_plain(config), data_fingerprint=fingerprint)
    assert tokenizer_of(older) == data.tokenizer.sha256
    assert tokenizer_of(dataclasses.replace(older, data_fingerprint=FINGERPRINT)) is None
    check_tokenizer("a", dataclasses.replace(older, data_fingerprint=FINGERPRINT), [data])
