"""Weights & Biases."""

import secrets
import warnings
from collections.abc import Sequence
from typing import Any

from sisa_scale.compat.wandb import last_step
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.training.hooks.writer import logged_values

_CONNECT_SECONDS = 10
_INIT_SECONDS = 30.0


class WandbWriter:
    """One wandb run over all attempts of a run.

    wandb gets every step once. Steps that are taken again after a failure are dropped if it has them; those that it
    lost, because it was killed before it wrote them, are sent again from the logs of the run directory.
    Keys come from wandb's own settings (WANDB_API_KEY or `wandb login`), never from a recipe.
    """

    def __init__(self, config: RunConfig) -> None:
        import wandb

        self._run, self._directory = None, config.directory.resolve()

        run_id = RunDirectory(config.directory).wandb_id(secrets.token_hex(4))
        known = last_step(self._directory, run_id)
        mode = config.wandb.mode
        if mode == "online" and (reason := unreachable()) is not None:
            _warn(f"{reason}; wandb works offline, and `wandb sync` sends its files later")
            mode = "offline"
        for attempted in dict.fromkeys((mode, "offline")):
            try:
                self._run = wandb.init(
                    project=config.wandb.project,
                    entity=config.wandb.entity,
                    name=config.name,
                    id=run_id,
                    resume="allow",
                    mode=attempted,
                    dir=str(self._directory),
                    config=to_plain(config),
                    settings=wandb.Settings(
                        silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=_INIT_SECONDS
                    ),
                )
                self._known = self._run.starting_step - 1 if attempted == "online" else known
                break
            except Exception as error:  # wandb raises what it likes, and no run depends on it
                _warn(f"wandb {attempted} fails ({_first_line(error)}); the run goes on, and keeps its own logs")
        self._is_caught_up = False

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Send numbers of a step."""
        if self._run is None:
            return
        if not self._is_caught_up:
            self._is_caught_up = True
            for missing, missed in logged_values(self._directory, self._known + 1, step).items():
                self._run.log(missed, step=missing)
        if step > self._known:
            self._run.log(values, step=step)

    def log_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Send prompts and their continuations as a table."""
        if self._run is None or step <= self._known:
            return
        import wandb

        table = wandb.Table(columns=["step", "prompt", "text"], data=[[step, *sample] for sample in samples])
        self._run.log({"eval/samples": table}, step=step)

    def finish(self) -> None:
        """Flush and close."""
        if self._run is not None:
            self._run.finish()


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
