"""Weights & Biases."""

import secrets
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from sisa_scale.compat.wandb import last_step
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.training.hooks.writer import logged_values

_CONNECT_SECONDS = 10
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 60.0  # wandb itself would wait for a server that has died for as long as it takes


class WandbWriter:
    """One wandb run over all attempts of a run.

    wandb gets every step once. Steps that are taken again after a failure are dropped if it has them; those that it
    lost, because it was killed before it wrote them, are sent again from the logs of the run directory.
    Keys come from wandb's own settings (WANDB_API_KEY or `wandb login`), never from a recipe.
    """

    def __init__(self, config: RunConfig) -> None:
        self._run: Any = None
        self._directory = config.directory.resolve()
        run_id = RunDirectory(config.directory).wandb_id(secrets.token_hex(4))
        self._known = last_step(self._directory, run_id)
        reason = unreachable() if config.wandb.mode == "online" else None
        try:
            if config.wandb.mode == "online" and reason is None:
                self._run = _begin(config, run_id, "online")
                self._known = self._run.starting_step - 1
        except Exception as error:  # wandb raises what it likes, and no run depends on it
            reason = f"wandb cannot work online ({_first_line(error)})"
            _end_service()
        if reason is not None:
            _warn(f"{reason}; wandb works offline, and `wandb sync` sends its files later")
        self._run = self._run or _begin(config, run_id, "offline")
        self._is_caught_up = False

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Send numbers of a step."""
        if not self._is_caught_up:
            self._is_caught_up = True
            for missing, missed in logged_values(self._directory, self._known + 1, step).items():
                self._run.log(missed, step=missing)
        if step > self._known:
            self._run.log(values, step=step)

    def log_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Send prompts and their continuations as a table."""
        if step <= self._known:
            return
        import wandb

        table = wandb.Table(columns=["step", "prompt", "text"], data=[[step, *sample] for sample in samples])
        self._run.log({"eval/samples": table}, step=step)

    def finish(self) -> None:
        """Flush and close."""
        try:
            self._run.finish()
        except TimeoutError:
            _end_service()
            _warn("wandb's server does not answer any more; its files are kept, and `wandb sync` sends them later")


def _begin(config: RunConfig, run_id: str, mode: Literal["online", "offline"]) -> Any:
    import wandb

    return wandb.init(
        project=config.wandb.project,
        entity=config.wandb.entity,
        name=config.name,
        id=run_id,
        resume="allow",
        mode=mode,
        dir=str(config.directory.resolve()),
        config=to_plain(config),
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            x_disable_stats=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )


def _end_service() -> None:
    """End wandb's own process: it writes what it holds of a run into its files, and lets go of the run's id."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def unreachable() -> str | None:
    """Return why wandb cannot work online: no key, or a server that does not answer; None where it can."""
    import wandb

    try:
        if wandb.login(prompt=False, timeout=_CONNECT_SECONDS):
            return None
    except Exception as error:  # wandb raises what it likes
        return f"wandb cannot work online ({_first_line(error)})"
    return "wandb has no key (WANDB_API_KEY, or `wandb login`)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _warn(message: str) -> None:
    warnings.warn(message, SisaScaleWarning, stacklevel=3)
