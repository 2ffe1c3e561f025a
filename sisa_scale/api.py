"""The Python API: what the commands do, for notebooks and programs.

Everything else in the package may change from release to release; these names are kept, and a test fixes them. They are
also names of the package itself: `from sisa_scale import load_checkpoint`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sisa_scale.config.model import ModelConfig
from sisa_scale.config.run import RunConfig

if TYPE_CHECKING:
    import torch

    from sisa_scale.data.tokenizer import Tokenizer
    from sisa_scale.evaluation.score import Score
    from sisa_scale.launching.launcher import Ended
    from sisa_scale.launching.submission import Submission
    from sisa_scale.models.decoder import Decoder
    from sisa_scale.reporting.status import Status
    from sisa_scale.runs.files import Run
    from sisa_scale.scaling.analysis import Analysis

__all__ = [
    "TrainedModel",
    "build_model",
    "evaluate",
    "fit_scaling_law",
    "generate",
    "load_checkpoint",
    "load_recipe",
    "open_run",
    "resume",
    "status",
    "submit",
    "train",
]


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the resolved run of a recipe: a path, or the name of a shipped one such as `sisa/152m`.

    overrides: `key=value`, as on the command line; twins are solved. Raises ConfigError that lists every problem.
    """
    from sisa_scale.planning.twins import load_recipe as load

    return load(recipe, tuple(overrides)).config


def build_model(config: RunConfig | ModelConfig, *, seed: int = 0, device: str = "cpu") -> "Decoder":
    """Return the decoder of a run or a model section with fresh fp32 weights; equal seeds give equal weights.

    `model(tokens_BL, targets_BL)` is the mean next-token loss in nats; `model.hidden`, `model.head.logits` and
    `model.extend` are its parts.
    """
    import torch

    from sisa_scale.config.execution import ExecutionConfig
    from sisa_scale.models.decoder import Decoder
    from sisa_scale.models.kernels.sdpa import portable_backend

    if isinstance(config, RunConfig):
        section, execution = config.model, config.execution
    else:
        section, execution = config, ExecutionConfig(micro_batch_sequences=1, precision="fp32")
    place = torch.device(device)
    backend = portable_backend(place.type, execution.precision, is_augmented=section.sisa is not None)
    model = Decoder(section, execution, backend)
    model.initialise(seed)
    return model.to(place)


def train(recipe: str | Path, overrides: Sequence[str] = (), *, announce: Callable[[str], None] | None = None) -> "Run":
    """Begin the run of a recipe, wait for its end and return what its directory holds, as `sisa-scale train` does.

    announce: told in plain words what happens. Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint and end the run, so call
    it from the main thread; `attempts[-1].outcome` of the result says how it ended. Raises ConfigError or DataError
    before anything starts, TrainingError or the error of a worker after that.
    """
    from sisa_scale.launching.local import run_to_end
    from sisa_scale.launching.reporter import Reporter
    from sisa_scale.launching.start import begin

    config = begin(load_recipe(recipe, overrides))
    return open_run(run_to_end(config, Reporter(announce)).run_dir)


def resume(
    run_dir: str | Path,
    overrides: Sequence[str] = (),
    *,
    takes_over: bool = False,
    from_step: int | None = None,
    announce: Callable[[str], None] | None = None,
) -> "Run":
    """Continue a run from its newest checkpoint, as `sisa-scale resume` does; otherwise like `train`.

    overrides: what changes; not the model, the data or the seed. takes_over: end another life of the run that goes on,
    without its last steps; else ConfigError is raised. from_step: go back to the checkpoint of that step first; what
    lies behind it is kept aside. Raises CheckpointError where there is no run, or no such checkpoint.
    """
    from sisa_scale.launching.going_back import go_back
    from sisa_scale.launching.local import run_to_end
    from sisa_scale.launching.reporter import Reporter
    from sisa_scale.launching.start import reopen

    config = reopen(Path(run_dir), tuple(overrides), takes_over=takes_over, from_step=from_step)
    if from_step is not None:
        go_back(config, from_step, Reporter(announce))
    return open_run(run_to_end(config, Reporter(announce)).run_dir)


def submit(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    to: str,
    profile: str | Path | None = None,
    settings: Sequence[str] = (),
    announce: Callable[[str], None] | None = None,
) -> "Submission | Ended":
    """Hand the run of a recipe to a cluster, as `sisa-scale submit` does; submitted again, it continues.

    to: `ray`, `slurm`, `kubernetes`, or `local`, which runs it to its end here; profile: the name of a shipped one, or
    a YAML file; settings: `key=value` that change it. Returns the note of the job. Raises ConfigError or DataError.
    """
    from sisa_scale.launching.profiles.load import load_profile
    from sisa_scale.launching.reporter import Reporter
    from sisa_scale.launching.submit import plan, send

    loaded = load_profile(to, str(profile) if profile is not None else None, settings)
    reporter = Reporter(announce)
    return send(plan(str(recipe), tuple(overrides), loaded, reporter), reporter)


def status(run_dir: str | Path, *, verify: bool = False) -> "Status":
    """Return how a run stands, wherever it runs: state, step, loss, attempts, checkpoint, where the time went.

    verify: read the newest checkpoint and compare all its checksums. Raises ConfigError where there is no run.
    """
    from sisa_scale.reporting.status import read_status

    return read_status(Path(run_dir), verify=verify)


def open_run(path: str | Path) -> "Run":
    """Return what a run directory holds, finished or not: config, provenance, steps, scores, monitors, attempts.

    Raises DataError for a directory without a run and for malformed files.
    """
    from sisa_scale.runs.files import read_run

    return read_run(Path(path))


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint in use. model: the decoder, in evaluation mode; config: of its run; step, tokens: where it is."""

    model: "Decoder"
    config: RunConfig
    step: int
    tokens: int
    device: "torch.device"

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the run's data set; raises DataError when that is not at hand."""
        from sisa_scale.data.read.tokenizer_choice import trained_tokenizer

        return trained_tokenizer(self.config)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the run computed: bf16 autocast, or nothing for fp32."""
        from sisa_scale.evaluation.loading import autocast

        return autocast(self.config, self.device)


def load_checkpoint(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    weights: Literal["raw", "ema"] = "raw",
    device: str = "cpu",
) -> TrainedModel:
    """Return the model of a run directory's newest checkpoint, or of a checkpoint of any form; its files are verified.

    overrides: `key=value` for what may change after training (evaluation.*, the length with model.rope.*); data: the
    data set, if it has moved; weights: as they are, or their moving average. Raises CheckpointError or ConfigError.
    """
    import torch

    from sisa_scale.conversion.trained import open_trained

    trained = open_trained(str(path), overrides, weights)
    config = trained.config
    if data is not None:
        config = dataclasses.replace(config, data=config.data.at(str(data)))
    place = torch.device(device)
    return TrainedModel(trained.model(place), config, trained.step, trained.tokens, place)


def evaluate(trained: TrainedModel, tasks: Sequence[str] = ()) -> "list[Score]":
    """Return scores with standard errors, as `sisa-scale evaluate` does; without tasks, those of the run's recipe.

    Raises ConfigError for an unknown task, DataError when the run's data set is not at hand.
    """
    from sisa_scale.evaluation.loading import model_scorer
    from sisa_scale.evaluation.resources import load_resources
    from sisa_scale.evaluation.suite import run_suite

    return run_suite(
        tuple(tasks) or trained.config.evaluation.tasks,
        model_scorer(trained.model, trained.config, trained.device),
        load_resources(trained.config),
        batch_size=trained.config.evaluation.batch_sequences,
        device=trained.device,
        by_length=True,
    )


def generate(
    trained: TrainedModel,
    prompts: Sequence[str],
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
) -> list[str]:
    """Return the continuation of every prompt, without the prompt; temperature 0 takes the most probable token.

    top_k: sample from that many, 0 from all. Raises ValueError beyond the model's longest sequence.
    """
    from sisa_scale.models.generate import generate as continued

    with trained.autocast():
        rows = continued(
            trained.model,
            trained.tokenizer.encode_batch(list(prompts)),
            max_tokens=max_tokens,
            eos_id=trained.tokenizer.eos_id,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
        )
    return [trained.tokenizer.decode(row) for row in rows]


def fit_scaling_law(
    table: str | Path,
    *,
    form: str = "chinchilla",
    objective: str = "huber:1e-3",
    resamples: int = 4000,
    seed: int = 0,
    architecture: str | None = None,
) -> "Analysis":
    """Fit a law to a CSV table of runs, as `sisa-scale laws fit` does.

    `.fit.published` holds its parameters by name, `.draws` those of the bootstrap, `.notices` what to beware of. Raises
    RefusalError where the runs cannot determine the law.
    """
    from sisa_scale.scaling.analysis import analyse
    from sisa_scale.scaling.table.checks import load_table

    return analyse(
        load_table(Path(table), architecture=architecture), form, objective, num_resamples=resamples, seed=seed
    )
