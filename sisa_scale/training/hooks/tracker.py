"""Weights & Biases, behind one method."""

import secrets
import warnings
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

from sisa_scale.compat.wandb import last_step
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.evaluations import ScoreRow, read_scores
from sisa_scale.runs.metrics import StepRow, read_steps

_CONNECT_SECONDS = 10
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 60.0  # wandb itself would wait for a server that has died for as long as it takes


class Tracker:
    """One wandb run over all attempts of a run; silent on all but the main worker, and when the mode is `disabled`.

    wandb gets every step once. Steps that are taken again after a failure are dropped if it has them; those that it
    lost, because it was killed before it wrote them, are sent again from the logs of the run directory.
    Keys come from wandb's own settings (WANDB_API_KEY or `wandb login`), never from a recipe.
    """

    def __init__(self, config: RunConfig, is_main: bool) -> None:
        self._run: Any = None
        self._directory = config.directory.resolve()
        if config.wandb.mode == "disabled" or not is_main:
            return
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
        try:
            self._run = self._run or _begin(config, run_id, "offline")
        except Exception as error:
            self._give_up("wandb offline", error)
        self._is_caught_up = False

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Send numbers of a step."""
        if self._run is None:
            return
        try:
            if not self._is_caught_up:
                self._is_caught_up = True
                for missing, missed in sorted(self._logged(self._known + 1, step).items()):
                    self._run.log(missed, step=missing)
            if step > self._known:
                self._run.log(values, step=step)
        except Exception as error:
            self._give_up("wandb", error)

    def finish(self) -> None:
        """Flush and close."""
        try:
            if self._run is not None:
                self._run.finish()
        except TimeoutError:
            _end_service()
            _warn("wandb's server does not answer any more; its files are kept, and `wandb sync` sends them later")
        except Exception as error:
            self._give_up("wandb", error)

    def _give_up(self, what: str, error: Exception) -> None:
        """Go on without wandb, and say so in one line."""
        self._run = None
        _warn(f"{what} fails ({_first_line(error)}); the run goes on, and keeps its own logs")

    def _logged(self, first: int, stop: int) -> dict[int, dict[str, Any]]:
        """Return what the run directory's logs hold of the steps first <= step < stop."""
        found: dict[int, dict[str, Any]] = defaultdict(dict)
        for row in read_steps(self._directory):
            if first <= row.step < stop:
                found[row.step] |= train_values(row)
        for score in read_scores(self._directory):
            if first <= score.step < stop:
                found[score.step] |= evaluation_values([score])
        return found


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


def train_values(row: StepRow) -> dict[str, Any]:
    """Return what wandb is told of a step."""
    return {f"train/{name}": value for name, value in row.to_json().items() if isinstance(value, int | float)}


def evaluation_values(rows: Iterable[ScoreRow]) -> dict[str, Any]:
    """Return what wandb is told of the scores of a step."""
    return {f"eval/{row.task}/{row.variant}/{row.metric}": row.value for row in rows}
