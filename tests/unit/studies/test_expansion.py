import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import STUDY, write_study

from sisa_scale.config.study import BudgetsConfig, StudyConfig, load_study
from sisa_scale.errors import ConfigError
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.twins import load_recipe
from sisa_scale.resources import resource_root
from sisa_scale.studies.expansion import expand
from sisa_scale.studies.plan import check_budget, cost_of
from sisa_scale.studies.trial import Trial

with tempfile.TemporaryDirectory() as _directory:
    SMALL = load_study(write_study(Path(_directory), Path("data/none")))
SHIPPED = sorted(path.name for path in (resource_root("recipes") / "studies").glob("*.yaml"))


def small(tmp_path: Path, *overrides: str, text: str = STUDY) -> StudyConfig:
    path = tmp_path / "small.yaml"
    path.write_text(text.format(data="data/none", directory="study"))
    return load_study(path, overrides)


def by_name(trials: list[Trial]) -> dict[str, Trial]:
    return {trial.name: trial for trial in trials}


@pytest.mark.parametrize("study", SHIPPED)
def test_shipped_studies_expand_within_their_limit(study: str) -> None:
    config = load_study(f"studies/{study}")
    trials = expand(config)
    check_budget(config, cost_of(trials, config.cost))
    rule, num_tuning = config.learning_rate, sum(trial.role == "tuning" for trial in trials)
    num_runs = len(config.architectures) * len(config.sizes) * 3
    assert len(trials) - num_tuning == num_runs
    assert num_tuning == (len(rule.sweep) * len(config.architectures) if rule else 0)
    assert all(abs(trial.match.relative_difference) < 0.02 for trial in trials if trial.match)
    assert all(trial.match for trial in trials if trial.architecture != config.reference)


def test_trunk_is_the_longest_and_keeps_what_branches_need(tmp_path: Path) -> None:
    trials = by_name(expand(small(tmp_path)))
    trunk, branch = trials["sisa-s-5.12K"], trials["sisa-s-2.56K"]
    assert (trunk.role, branch.role, branch.trunk) == ("trunk", "branch", trunk.name)
    assert (branch.config.total_steps, branch.branch_step) == (10, 8)
    assert trunk.config.checkpoint.at_steps == (8,)
    assert str(branch.config.schedule.decay) == "2 steps"
    assert trunk.config.schedule.warmup == branch.config.schedule.warmup
    assert branch.own_flops == pytest.approx(branch.train_flops * 2 / 10)


def test_trunks_stand_before_their_branches(tmp_path: Path) -> None:
    names = [trial.name for trial in expand(small(tmp_path))]
    for trial in expand(small(tmp_path)):
        assert names.index(trial.trunk) <= names.index(trial.name)


def test_independent_runs_share_nothing(tmp_path: Path) -> None:
    trials = expand(small(tmp_path, "schedule.trunk=false"))
    assert {trial.role for trial in trials} == {"run"}
    assert all(trial.config.checkpoint.at_steps == () and trial.own_flops == trial.train_flops for trial in trials)
    cost = cost_of(expand(small(tmp_path)), small(tmp_path).cost)
    assert sum(trial.train_flops for trial in trials) == pytest.approx(cost.independent_flops)
    assert 0 < cost.saved_share < 0.5


@pytest.mark.parametrize("match", ["parameters", "nonembedding_parameters", "flops"])
def test_twins_match_the_reference_of_their_size(tmp_path: Path, match: str) -> None:
    trials = by_name(expand(small(tmp_path, f"match={match}", "d_ff_multiple=1")))
    for size in ("s", "m"):
        found = trials[f"sisa-{size}-5.12K"].match
        assert found is not None
        assert found.quantity == match
        assert abs(found.relative_difference) < 0.01
    original, twin = (count_parameters(trials[f"{name}-m-5.12K"].config.model) for name in ("transformer", "sisa"))
    if match == "parameters":
        assert twin.total == pytest.approx(original.total, rel=0.003)


def test_isoflop_levels_give_each_run_its_own_length(tmp_path: Path) -> None:
    trials = expand(small(tmp_path, "budgets.tokens=[]", "budgets.flops=[4e9, 8e9]"))
    for trial in trials:
        assert trial.budget_flops in (4e9, 8e9)
        assert trial.train_flops == pytest.approx(trial.budget_flops, rel=0.2)
    assert len({trial.tokens for trial in trials}) > 2


def test_tokens_per_parameter_are_those_of_the_reference(tmp_path: Path) -> None:
    trials = by_name(expand(small(tmp_path, "budgets.tokens=[]", "budgets.tokens_per_parameter=[0.1, 0.2]")))
    lengths: dict[str, set[int]] = {}
    for trial in trials.values():
        lengths.setdefault(trial.size, set()).add(trial.tokens)
    assert all(len(tokens) == 2 for tokens in lengths.values())
    original = next(p for p in trials.values() if p.architecture == "transformer" and p.size == "m")
    assert min(lengths["m"]) == pytest.approx(0.1 * original.counts.total, abs=256)


def test_learning_rate_follows_the_rule(tmp_path: Path) -> None:
    rule = "learning_rate={value: 0.004, at_d_model: 32, exponent: 1.0}"
    study = small(tmp_path, rule, "architectures.sisa.learning_rate_scale=2.0")
    rates = {(p.architecture, p.size): p.config.optimizer.learning_rate for p in expand(study)}
    assert rates["transformer", "m"] == 0.004
    assert rates["transformer", "s"] == 0.008
    assert rates["sisa", "s"] == 0.016


def test_seeds_are_those_of_weights_and_data(tmp_path: Path) -> None:
    trials = expand(small(tmp_path, "seeds=[3,4]"))
    assert len(trials) == 16
    assert all(trial.config.seed == trial.config.data.seed == trial.seed for trial in trials)
    assert len({trial.directory for trial in trials}) == 16
    assert all(f"-seed{trial.seed}-" in trial.trunk for trial in trials)


def test_hash_is_of_what_decides_the_result() -> None:
    def hashes(*overrides: str) -> list[str]:
        study = dataclasses.replace(SMALL, overrides=(*SMALL.overrides, *overrides))
        return [trial.config_sha256 for trial in expand(study)]

    assert hashes() == hashes("execution.compile=true", "resources.device=cuda")
    assert hashes()[0] != hashes("optimizer.weight_decay=0.2")[0]


@settings(max_examples=20, deadline=None)
@given(tokens=st.lists(st.integers(2, 400), min_size=2, max_size=4, unique=True), decay=st.floats(0.05, 0.6))
def test_branches_begin_before_their_end_and_after_the_warmup(tokens: list[int], decay: float) -> None:
    study = dataclasses.replace(
        SMALL,
        sizes={"s": SMALL.sizes["s"]},
        architectures={"sisa": SMALL.architectures["sisa"]},
        reference="sisa",
        budgets=BudgetsConfig(tokens=tuple(2560 * count for count in tokens)),
        schedule=dataclasses.replace(SMALL.schedule, decay_fraction=decay),
    )
    trials = expand(study)
    branches = [trial for trial in trials if trial.role == "branch"]
    starts = {p.config.total_steps - p.config.data.batches.steps(p.config.schedule.decay): p for p in branches}
    for start, trial in starts.items():
        assert 2 < start < trial.config.total_steps
        assert trial.branch_step == start
    assert set(trials[0].config.checkpoint.at_steps) == starts.keys()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("reference=transfomer",), "Did you mean 'transformer'"),
        (("architectures.sisa.overrides=[model.kind=sysa]",), "architecture sisa, size s: .*model.kind.*sysa"),
        (("sizes.s.d_ff=8", "sizes.s.num_layers=1"), "without any MLP this model is beyond that"),
        (("budgets.tokens=[1024, 5120]", "schedule.warmup=4 steps"), "the cooldown begins after the warm-up of 4"),
        (("budgets.tokens=[5120, 5100]",), "both 20 steps"),
        (("budgets.flops=[1e9]",), "one of tokens, tokens_per_parameter and flops"),
        (("budgets.tokens=[]",), "one of tokens, tokens_per_parameter and flops"),
        (('architectures.sisa.overrides=[model.kind=sisa, "model.sisa={d_s: 16}", data.seed=1, data.path=other]',),
         "data.path: found other; runs of a study are measured alike"),
        (('architectures.sisa.overrides=[model.kind=sisa, "model.sisa={d_s: 16}", model.vocab_size=512]',),
         "measured alike"),
        (("schedule.decay_fraction=1.5",), "must be at most 0.9"),
        (("seeds=[1,1]",), "different seeds"),
        (("sises.s.d_model=4",), "Did you mean 'sizes'"),
        (("recipe=null",), "has no recipe of its own"),
        (("cost.gpu=h100",), "found both; hours follow from gpu or"),
        (("schedule.warmup=9 steps",), "the cooldown begins after the warm-up of 9 steps"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(small(tmp_path, *overrides))


def test_a_study_without_the_loss_is_refused() -> None:
    study = dataclasses.replace(SMALL, overrides=(*SMALL.overrides, "evaluation.tasks=[needle]"))
    with pytest.raises(ConfigError, match="fitted to the held-out loss"):
        expand(study)


def test_errors_of_a_study_name_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"small.yaml:\d+ reference: found transformer"):
        small(tmp_path, text=STUDY.replace("  transformer:", "  other:"))


def test_a_plan_beyond_its_limit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    study = small(tmp_path, "cost.max_device_hours=0.01")
    with pytest.raises(ConfigError, match=r"a plan of 0\.0448 device-hours .* at most 0.01"):
        check_budget(study, cost_of(expand(study), study.cost))


def test_hours_on_a_gpu_are_those_of_its_measured_utilisation(tmp_path: Path) -> None:
    study = small(tmp_path, "cost.sustained_flops_per_second=null", "cost.gpu=h100", "cost.overhead_seconds=0")
    trials = expand(study)
    cost = cost_of(trials, study.cost)
    assert cost.device_hours == pytest.approx(cost.flops / 989.4e12 / 0.38 / 3600, rel=0.1)
    assert cost.device_hours < cost.independent_device_hours
    with pytest.raises(ConfigError, match="h100"):
        cost_of(trials, dataclasses.replace(study.cost, gpu="h1000"))


def test_a_trial_planned_before_newer_settings_keeps_its_hash(tmp_path: Path) -> None:
    trial = dataclasses.replace(expand(small(tmp_path))[0], config=load_recipe("sisa/50m").config)
    # As it was before the settings that `trial._LATER` names were there.
    assert trial.config_sha256 == "d1f8d4d312c75860f9c3100749daffab0da148962975cdafb02ffd6375b45acc"
