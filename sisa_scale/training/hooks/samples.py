"""Prompts that are continued at every evaluation (`evaluation.samples`)."""

import time

from sisa_scale.data.read.tokenizer_choice import trained_tokenizer
from sisa_scale.errors import ConfigError
from sisa_scale.runs.logs.evaluations import Sample, SampleRow
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class Samples:
    """Continues every prompt by its most probable tokens, on all workers together, so that evaluations compare.

    Raises ConfigError on every worker for a prompt without a token, and for one that is too long.
    """

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self.run, self.tracker, settings = run, tracker, run.config.evaluation
        self.tokenizer = trained_tokenizer(run.config)
        self.prompts = self.tokenizer.encode_batch(list(settings.samples))
        limit = run.config.model.max_length_tokens
        for text, prompt in zip(settings.samples, self.prompts, strict=True):
            if not 0 < len(prompt) <= limit - settings.sample_tokens:
                raise ConfigError.at(
                    "evaluation.samples",
                    found=f"a prompt of {len(prompt)} tokens, {text[:40]!r}",
                    allowed=f"one token or more, and with evaluation.sample_tokens {settings.sample_tokens} at most "
                    f"model.max_length_tokens {limit}",
                    remedy="Change the prompt, or lower evaluation.sample_tokens.",
                )

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Continue the prompts if it is time."""
        run, settings = self.run, self.run.config.evaluation
        is_due = settings.every_steps and state.step % settings.every_steps == 0
        if not (is_due or report.is_last) or (report.is_preempted and not report.is_last):
            return
        started = time.perf_counter()
        with run.heart.phase("evaluation", state.step):
            rows = [run.engine.continued(prompt, settings.sample_tokens) for prompt in self.prompts]
        if not run.workers.is_main:
            return
        eos_id, samples = self.tokenizer.eos_id, []
        for prompt, row in zip(settings.samples, rows, strict=True):
            text = row[: row.index(eos_id)] if eos_id in row else row
            samples.append(Sample(prompt, self.tokenizer.decode(text)))
        run.directory.add_samples(SampleRow(state.step, state.tokens, tuple(samples)))
        run.directory.event("samples", step=state.step, seconds=round(time.perf_counter() - started, 3))
        self.tracker.log_samples(state.step, [(sample.prompt, sample.text) for sample in samples])
