"""Which checkpoints a run keeps."""

from collections.abc import Collection, Mapping

from sisa_scale.config.observation import CheckpointConfig


def surplus(steps: Collection[int], losses: Mapping[int, float], settings: CheckpointConfig) -> list[int]:
    """Return the steps of the checkpoints to remove, ascending, once the newest of `steps` is durable.

    losses: held-out loss by step. Kept are the newest `keep_last` (0 keeps all), those of `at_steps`, every step that
    `keep_every_steps` divides, and the `keep_best` with the lowest loss, of equal ones the newer; a step without a loss
    is never best.
    """
    if not settings.keep_last:
        return []
    kept = set(sorted(steps)[-settings.keep_last :]) | set(settings.at_steps)
    if settings.keep_every_steps:
        kept |= {step for step in steps if step % settings.keep_every_steps == 0}
    measured = sorted((step for step in steps if step in losses), key=lambda step: (losses[step], -step))
    kept |= set(measured[: settings.keep_best])
    return sorted(set(steps) - kept)
