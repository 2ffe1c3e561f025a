"""From a study to its trials: shapes, twins, lengths, learning rates, and who branches off whom."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from sisa_scale.config.loading.load import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.config.study import SAMPLE, ArchitectureConfig, SizeConfig, StudyConfig
from sisa_scale.errors import ConfigError
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.twins import Match, load_recipe, match_with, solve_d_ff
from sisa_scale.studies.consistency import check_comparable
from sisa_scale.studies.trial import Trial

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


def expand(study: StudyConfig) -> list[Trial]:
    """Return the trials of a study, every trunk before its branches, cheap trunks first.

    Raises ConfigError where a recipe does not resolve, no twin exists, a run would be too short for its cooldown, or
    runs could not be compared.
    """
    trials: list[Trial] = []
    for size in study.sizes:
        original = _shape(study, study.reference, size, None)
        for name in study.architectures:
            shape = original if name == study.reference else _shape(study, name, size, original.config)
            for seed in study.seeds:
                trials += _runs(study, shape, original.config, seed)
    check_comparable(trials)
    order = {trial.name: trial.train_flops for trial in trials}
    return sorted(trials, key=lambda trial: (order[trial.trunk], trial.trunk, trial.role == "branch", trial.tokens))


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


def _runs(study: StudyConfig, shape: _Shape, original: RunConfig, seed: int) -> list[Trial]:
    """Return the runs of a shape and a seed, the longest first."""
    lengths = sorted(_lengths(study, shape, original), key=lambda length: -length.steps)
    batches = shape.config.data.batches
    label = f"{shape.architecture}-{shape.size}" + (f"-seed{seed}" if len(study.seeds) > 1 else "")
    names = [f"{label}-{_compact(batches.tokens_before(length.steps))}" for length in lengths]
    if len(set(names)) < len(names):  # close budgets: name them by their steps
        names = [f"{label}-{length.steps}" for length in lengths]
    has_branches = study.schedule.trunk and len(lengths) > 1
    trials = []
    for name, length in zip(names, lengths, strict=True):
        is_trunk = has_branches and length is lengths[0]
        is_branch = has_branches and not is_trunk
        forks = sorted({other.steps - other.decay_steps for other in lengths[1:]}) if is_trunk else []
        overrides = (*shape.overrides, *_run_overrides(study, shape, seed, name, length, forks))
        trial = Trial(
            name=name,
            architecture=shape.architecture,
            size=shape.size,
            seed=seed,
            role="trunk" if is_trunk else "branch" if is_branch else "run",
            trunk=names[0] if has_branches else name,
            branch_step=length.steps - length.decay_steps if is_branch else 0,
            recipe=shape.recipe,
            overrides=overrides,
            config=load_recipe(shape.recipe, overrides).config,
            budget_flops=length.budget_flops,
            match=shape.match,
        )
        trials.append(trial)
    return trials


def _lengths(study: StudyConfig, shape: _Shape, original: RunConfig) -> Iterator[_Length]:
    config, budgets, schedule = shape.config, study.budgets, study.schedule
    batches = config.data.batches
    per_token = flops_per_token(config.model, config.data.sequence_tokens).train
    wanted: list[tuple[float, float | None]] = [(float(tokens), None) for tokens in budgets.tokens]
    num_params = count_parameters(original.model).total
    wanted += [(ratio * num_params, None) for ratio in budgets.tokens_per_parameter]
    wanted += [(flops / per_token, flops) for flops in budgets.flops]
    warmup = batches.steps(schedule.warmup)
    where = f"study {study.name}, {shape.architecture} at size {shape.size}"
    seen: dict[int, float] = {}
    for tokens, budget in wanted:
        steps = batches.nearest_steps(tokens)
        full_steps = batches.tokens_before(steps) / config.data.global_batch_tokens  # as many tokens, without a ramp
        decay = max(1, round(schedule.decay_fraction * full_steps))
        if steps - decay <= max(warmup, 0) or steps < 2:
            raise ConfigError.at(
                where,
                found=f"a run of {tokens:,.0f} tokens, {steps} steps of which {decay} are its cooldown",
                allowed=f"the cooldown begins after the warm-up of {warmup} steps",
                remedy="Lengthen the run, shorten schedule.warmup, lower schedule.decay_fraction or the batch.",
            )
        if steps in seen:
            raise ConfigError.at(
                where,
                found=f"budgets of {seen[steps]:,.0f} and {tokens:,.0f} tokens, both {steps} steps",
                allowed="every budget is a run of its own length",
                remedy="Put them further apart, or lower data.global_batch_tokens.",
            )
        seen[steps] = tokens
        yield _Length(steps, decay, budget)


def _run_overrides(
    study: StudyConfig, shape: _Shape, seed: int, name: str, length: _Length, forks: list[int]
) -> Iterator[str]:
    config = shape.config
    yield f"name={study.name}-{name}"
    yield f"run_dir={study.directory / 'runs' / name}"
    yield f"seed={seed}"
    yield f"data.seed={seed}"
    rule, scale = study.learning_rate, study.architectures[shape.architecture].learning_rate_scale
    rate = config.optimizer.learning_rate
    if rule is not None:
        rate = rule.value * (rule.at_d_model / config.model.d_model) ** rule.exponent
    yield f"optimizer.learning_rate={float(f'{rate * scale:.6g}')!r}"
    yield "schedule.kind=wsd"
    yield f"schedule.total={length.steps} steps"
    yield f"schedule.warmup={config.data.batches.steps(study.schedule.warmup)} steps"
    yield f"schedule.decay={length.decay_steps} steps"
    yield "checkpoint.directory=null"
    yield f"checkpoint.at_steps={forks}"


def _compact(tokens: int) -> str:
    """Return tokens as a short word: 4.2M."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if tokens >= scale:
            return f"{tokens / scale:.3g}{letter}"
    return str(tokens)
