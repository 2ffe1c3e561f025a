"""From a study to its trials: shapes, twins, lengths, learning rates, and who branches off whom."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from sisa_scale.config.data import DataConfig
from sisa_scale.config.loading.load import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.config.study import SAMPLE, ArchitectureConfig, SizeConfig, StudyConfig
from sisa_scale.errors import ConfigError
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.twins import Match, load_recipe, match_with, solve_d_ff
from sisa_scale.studies.consistency import check_comparable
from sisa_scale.studies.trial import Role, Trial
from sisa_scale.studies.tuning.rates import rate_of

DATA = "data"


@dataclass(frozen=True)
class _Length:
    """One run of a shape. budget_flops: its isoFLOP level."""

    steps: int
    decay_steps: int
    budget_flops: float | None


@dataclass(frozen=True)
class _Shape:
    """An architecture at a size. overrides: all that its runs of any length share."""

    architecture: str
    size: str
    recipe: str
    overrides: tuple[str, ...]
    config: RunConfig
    match: Match | None


def expand(study: StudyConfig, tuned: Mapping[str, float] = MappingProxyType({})) -> list[Trial]:
    """Return the trials of a study: tuning trials, then every trunk before its branches, cheap trunks first.

    tuned: the best rate of every architecture whose sweep has been run; without it the trials of a swept rate are
    `is_untuned`. Raises ConfigError where a recipe does not resolve, no twin exists, a run would be too short for its
    cooldown, or runs could not be compared.
    """
    shapes: dict[tuple[str, str], _Shape] = {}
    for size in study.sizes:
        shapes[size, study.reference] = original = _shape(study, study.reference, size, None)
        for name in study.architectures:
            if name != study.reference:
                shapes[size, name] = _shape(study, name, size, original.config)
    trials: list[Trial] = []
    for (size, name), shape in shapes.items():
        trials += _tuning_runs(study, shape)
        at = study.learning_rate.at if study.learning_rate else None
        width = shapes[at.size if at else size, name].config.model.d_model
        rate = partial(rate_of, study, shape.config, name, tuned=tuned.get(name), tuned_width=width)
        is_untuned = bool(study.sweep_of(name)) and name not in tuned
        for seed in study.seed_list:
            trials += _runs(study, shape, shapes[size, study.reference].config, seed, rate, is_untuned)
    check_comparable(trials)
    order = {trial.name: trial.train_flops for trial in trials}
    return sorted(
        trials,
        key=lambda t: (t.role != "tuning", order[t.trunk], t.trunk, t.role == "branch", t.tokens),
    )


def _shape(study: StudyConfig, name: str, size: str, original: RunConfig | None) -> _Shape:
    architecture, dimensions = study.architectures[name], study.sizes[size]
    recipe = (architecture.recipe or study.recipe or "").replace("{size}", size)
    where = f"study {study.name}, architecture {name}, size {size}"
    overrides = tuple(_shape_overrides(study, architecture, dimensions))
    match_kind = architecture.match or study.match
    is_twin = original is not None and match_kind != "none"
    try:
        if not is_twin:
            own = (f"model.d_ff={dimensions.d_ff}",) if original is None and dimensions.d_ff is not None else ()
            overrides = (*overrides, *own)
            config = load_recipe(recipe, overrides).config
            return _Shape(name, size, recipe, overrides, config, match_with(config, original) if original else None)
        assert original is not None
        # The width is solved below; any that the recipe accepts will do before.
        config = load_config(recipe, (*overrides, "twin_of=null", f"match={match_kind}")).config
        width = solve_d_ff(config, original, f"{where}, d_ff", study.d_ff_multiple)
    except ConfigError as error:
        problems = [dataclasses.replace(problem, where=f"{where}: {problem.where}") for problem in error.problems]
        raise ConfigError.many(problems) from error
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, d_ff=width))
    overrides = (*overrides, "twin_of=null", f"match={match_kind}", f"model.d_ff={width}")
    return _Shape(name, size, recipe, overrides, config, match_with(config, original))


def _shape_overrides(study: StudyConfig, architecture: ArchitectureConfig, size: SizeConfig) -> Iterator[str]:
    yield f"name={study.name}"
    yield from study.overrides
    if study.data is not None:
        yield f"data.path={study.directory / DATA if study.data == SAMPLE else study.data}"
    for key in ("d_model", "num_layers", "num_heads"):
        if getattr(size, key) is not None:
            yield f"model.{key}={getattr(size, key)}"
    yield from architecture.overrides
    yield from size.overrides


def _tuning_runs(study: StudyConfig, shape: _Shape) -> Iterator[Trial]:
    """Yield the tuning trials of a shape, from low rates to high ones."""
    rule, rates = study.learning_rate, study.sweep_of(shape.architecture)
    if rule is None or rule.at is None or rule.at.size != shape.size:
        return
    data = shape.config.data
    where = f"study {study.name}, learning_rate.at, {shape.architecture} at size {shape.size}"
    length = _length(study, where, rule.at.tokens, data, None)
    label = f"tune-{shape.architecture}-{shape.size}-{_compact(data.batches.tokens_before(length.steps))}"
    for rate in rates:
        for seed in range(rule.seeds):
            name = f"{label}-lr{rate:g}" + (f"-seed{seed}" if rule.seeds > 1 else "")
            yield _trial(study, shape, name, "tuning", name, seed, length, rate=rate)


def _runs(
    study: StudyConfig, shape: _Shape, original: RunConfig, seed: int, rate_of: Callable[[int], float], is_untuned: bool
) -> Iterator[Trial]:
    """Yield the runs of a shape and a seed, the longest first. rate_of: the rate of a run of so many steps."""
    lengths = sorted(_lengths(study, shape, original), key=lambda length: -length.steps)
    batches = shape.config.data.batches
    label = f"{shape.architecture}-{shape.size}" + (f"-seed{seed}" if len(study.seed_list) > 1 else "")
    names = [f"{label}-{_compact(batches.tokens_before(length.steps))}" for length in lengths]
    if len(set(names)) < len(names):  # close budgets: name them by their steps
        names = [f"{label}-{length.steps}" for length in lengths]
    has_branches = study.schedule.trunk and len(lengths) > 1
    for name, length in zip(names, lengths, strict=True):
        role: Role = "run" if not has_branches else "trunk" if length is lengths[0] else "branch"
        rate = rate_of((lengths[0] if has_branches else length).steps)
        forks = sorted({other.steps - other.decay_steps for other in lengths[1:]}) if role == "trunk" else []
        trunk = names[0] if has_branches else name
        yield _trial(study, shape, name, role, trunk, seed, length, rate=rate, forks=forks, is_untuned=is_untuned)


def _trial(
    study: StudyConfig,
    shape: _Shape,
    name: str,
    role: Role,
    trunk: str,
    seed: int,
    length: _Length,
    *,
    rate: float,
    forks: Sequence[int] = (),
    is_untuned: bool = False,
) -> Trial:
    overrides = (*shape.overrides, *_run_overrides(study, shape, seed, name, length, rate, forks))
    return Trial(
        name=name,
        architecture=shape.architecture,
        size=shape.size,
        seed=seed,
        role=role,
        trunk=trunk,
        branch_step=length.steps - length.decay_steps if role == "branch" else 0,
        recipe=shape.recipe,
        overrides=overrides,
        config=load_recipe(shape.recipe, overrides).config,
        budget_flops=length.budget_flops,
        match=shape.match,
        is_untuned=is_untuned,
    )


def _lengths(study: StudyConfig, shape: _Shape, original: RunConfig) -> Iterator[_Length]:
    config, budgets = shape.config, study.budgets
    per_token = flops_per_token(config.model, config.data.sequence_tokens).train
    wanted: list[tuple[float, float | None]] = [(float(tokens), None) for tokens in budgets.tokens]
    num_params = count_parameters(original.model).total
    wanted += [(ratio * num_params, None) for ratio in budgets.tokens_per_parameter]
    wanted += [(flops / per_token, flops) for flops in budgets.flops]
    where = f"study {study.name}, {shape.architecture} at size {shape.size}"
    seen: dict[int, float] = {}
    for tokens, budget in wanted:
        length = _length(study, where, tokens, config.data, budget)
        steps = length.steps
        if steps in seen:
            raise ConfigError.at(
                where,
                found=f"budgets of {seen[steps]:,.0f} and {tokens:,.0f} tokens, both {steps} steps",
                allowed="every budget is a run of its own length",
                remedy="Put them further apart, or lower data.global_batch_tokens.",
            )
        seen[steps] = tokens
        yield length


def _length(study: StudyConfig, where: str, tokens: float, data: DataConfig, budget: float | None) -> _Length:
    schedule, batches = study.schedule, data.batches
    warmup, steps = batches.steps(schedule.warmup), batches.nearest_steps(tokens)
    full_steps = batches.tokens_before(steps) / data.global_batch_tokens  # as many tokens, without a ramp
    decay = max(1, round(schedule.decay_fraction * full_steps))
    if steps - decay <= max(warmup, 0) or steps < 2:
        raise ConfigError.at(
            where,
            found=f"a run of {tokens:,.0f} tokens, {steps} steps of which {decay} are its cooldown",
            allowed=f"the cooldown begins after the warm-up of {warmup} steps",
            remedy="Lengthen the run, shorten schedule.warmup, lower schedule.decay_fraction or the batch.",
        )
    return _Length(steps, decay, budget)


def _run_overrides(
    study: StudyConfig, shape: _Shape, seed: int, name: str, length: _Length, rate: float, forks: Sequence[int]
) -> Iterator[str]:
    config = shape.config
    yield f"name={study.name}-{name}"
    yield f"run_dir={study.directory / 'runs' / name}"
    yield f"seed={seed}"
    yield f"data.seed={seed}"
    yield f"optimizer.learning_rate={float(f'{rate:.6g}')!r}"
    yield "schedule.kind=wsd"
    yield f"schedule.total={length.steps} steps"
    yield f"schedule.warmup={config.data.batches.steps(study.schedule.warmup)} steps"
    yield f"schedule.decay={length.decay_steps} steps"
    yield "checkpoint.directory=null"
    yield f"checkpoint.at_steps={list(forks)}"


def _compact(tokens: int) -> str:
    """Return tokens as a short word: 4.2M."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if tokens >= scale:
            return f"{tokens / scale:.3g}{letter}"
    return str(tokens)
