"""Who is told of every step and score while a run lives, behind one method: wandb, TensorBoard."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError, SisaScaleWarning
from sisa_scale.training.hooks.tensorboard_writer import TensorboardWriter
from sisa_scale.training.hooks.wandb_writer import WandbWriter
from sisa_scale.training.hooks.writer import Writer


class Tracker:
    """Tells the writers of `observation.writers`; silent on all but the main worker.

    No run depends on a writer: one that fails is left out from then on, with a warning. Raises ConfigError on every
    worker where the package of a writer is missing.
    """

    def __init__(self, config: RunConfig, is_main: bool) -> None:
        self._writers: dict[str, Writer] = {}
        names = config.observation.writers
        if "tensorboard" in names and importlib.util.find_spec("tensorboard") is None:
            raise ConfigError.at(
                "observation.writers",
                found="tensorboard, whose package is not installed",
                allowed="a writer needs its package",
                remedy="Run `pip install 'sisa-scale[tensorboard]'`, or remove it from the list.",
            )
        if is_main and "wandb" in names and config.wandb.mode != "disabled":
            self._add("wandb", lambda: WandbWriter(config))
        if is_main and "tensorboard" in names:
            self._add("tensorboard", lambda: TensorboardWriter(config.directory))

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Tell numbers of a step."""
        self._tell(lambda writer: writer.log(step, values))

    def log_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Tell prompts and their continuations."""
        self._tell(lambda writer: writer.log_samples(step, samples))

    def finish(self) -> None:
        """Flush and close."""
        self._tell(lambda writer: writer.finish())

    def _add(self, name: str, build: Callable[[], Writer]) -> None:
        try:
            self._writers[name] = build()
        except Exception as error:  # writers raise what they like
            self._give_up(name, error)

    def _tell(self, call: Callable[[Writer], None]) -> None:
        for name, writer in list(self._writers.items()):
            try:
                call(writer)
            except Exception as error:
                self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        """Go on without a writer, and say so in one line."""
        self._writers.pop(name, None)
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        warnings.warn(
            f"{name} fails ({reason}); the run goes on, and keeps its own logs", SisaScaleWarning, stacklevel=3
        )
