"""The peak learning rate of a trial: its recipe's, the study's rule, or what tuning found, carried over."""

from sisa_scale.config.run import RunConfig
from sisa_scale.config.study import StudyConfig


def rate_of(
    study: StudyConfig, config: RunConfig, architecture: str, steps: int, *, tuned: float | None, tuned_width: int
) -> float:
    """Return the rate of a run of a shape's config.

    steps: of the run, or of its trunk, which has the same rate; tuned: the optimum of the architecture's sweep, None
    before it is known, when a rate of the sweep stands in its place; tuned_width: d_model of the tuning trials.
    """
    rule, scale = study.learning_rate, study.architectures[architecture].learning_rate_scale
    if rule is None:
        return config.optimizer.learning_rate * scale
    if rule.at is None:
        assert rule.value is not None and rule.at_d_model is not None
        value, width, tokens = rule.value * scale, rule.at_d_model, rule.at_tokens
    else:
        sweep = study.sweep_of(architecture)
        value, width, tokens = sweep[len(sweep) // 2] if tuned is None else tuned, tuned_width, rule.at.tokens
    rate: float = value * (width / config.model.d_model) ** rule.exponent
    if tokens is not None:
        rate *= (tokens / config.data.batches.tokens_before(steps)) ** rule.tokens_exponent
    return rate
