"""What a run reads of each source by any step: exact, from the arithmetic alone."""

from dataclasses import dataclass

from sisa_scale.config.data import DataConfig
from sisa_scale.data.order.mixture import Mixture
from sisa_scale.data.read.sources import Source
from sisa_scale.errors import ConfigError


@dataclass(frozen=True)
class SourceUse:
    """The part of one source in the first steps of a run.

    share: of all sequences; available_tokens: what its `max_epochs` allow in the whole run; None: no limit.
    """

    source: str
    num_sequences: int
    num_tokens: int
    share: float
    epochs: float
    tokens_per_epoch: int
    available_tokens: int | None


def source_use(config: DataConfig, sources: tuple[Source, ...], mixture: Mixture, num_steps: int) -> list[SourceUse]:
    """Return what the first `num_steps` steps read of each source."""
    total = config.batches.sequences_before(num_steps)
    length = config.sequence_tokens
    return [
        SourceUse(
            source=source.name,
            num_sequences=count,
            num_tokens=count * length,
            share=count / max(1, total),
            epochs=count / source.order.sequences_per_epoch,
            tokens_per_epoch=source.order.sequences_per_epoch * length,
            available_tokens=None if source.max_sequences is None else source.max_sequences * length,
        )
        for source, count in zip(sources, mixture.counts(total), strict=True)
    ]


def check_limits(config: DataConfig, sources: tuple[Source, ...], mixture: Mixture, num_steps: int) -> None:
    """Raise ConfigError if `num_steps` steps read more of a source than its `max_epochs` allow."""
    for number, use in enumerate(source_use(config, sources, mixture, num_steps)):
        available = use.available_tokens
        if available is not None and use.num_tokens > available:
            steps = _last_step(mixture, number, available // config.sequence_tokens, config, num_steps)
            raise ConfigError.at(
                f"data.mix.{use.source}.max_epochs",
                found=f"{num_steps} steps, which read {use.num_tokens} tokens of it ({use.epochs:.4f} epochs)",
                allowed=f"{available} tokens of it are available ({config.sources[use.source].max_epochs:g} epochs)",
                remedy=f"End the run after {steps} steps, lower the weight of {use.source}, or raise its max_epochs.",
            )


def _last_step(mixture: Mixture, number: int, limit: int, config: DataConfig, num_steps: int) -> int:
    """Return the most steps that read at most `limit` sequences of a source."""
    low, high = 0, num_steps
    while high - low > 1:
        middle = (low + high) // 2
        is_within = mixture.counts(config.batches.sequences_before(middle))[number] <= limit
        low, high = (middle, high) if is_within else (low, middle)
    return low
