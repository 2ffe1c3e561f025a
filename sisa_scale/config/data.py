"""Section `data`: which tokens, in which order. Fixed for the life of a run (but for where and how they are read)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from sisa_scale.config.batches import GlobalBatches, RampStage
from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.mixture import MixSource, MixStage

_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The token stream; its order is a pure function of (manifests, seed, step)."""

    path: str | None = setting(
        "directory or URL (https://, s3://, gs://) of a built data set (see `sisa-scale data build`)", default=None
    )
    mix: Mapping[str, MixSource] = setting(
        "several data sets by name, instead of data.path: {web: {path: ..., weight: 0.7}, ...}", default_factory=dict
    )
    stages: tuple[MixStage, ...] = setting(
        "weights that change at a step: [{from: 1000 steps, weights: {web: 0.5, books: 0.5}}]", default=()
    )
    sequence_tokens: int = setting("length of a training sequence in tokens", minimum=2)
    global_batch_tokens: int = setting("tokens of one optimizer step over all workers", minimum=2)
    global_batch_ramp: tuple[RampStage, ...] = setting(
        "smaller global batches at the start: [{until: 1B tokens, global_batch_tokens: 131072}, ...]; "
        "data.global_batch_tokens after the last",
        default=(),
    )
    seed: int = setting("seed of the order of the sequences", default=0, minimum=0)
    documents: Literal["joined", "separate"] = setting(
        "joined: a token sees all earlier tokens of its sequence, across documents. separate: a token "
        "sees its own document only, and no target crosses the end of a document; attention needs a mask,"
        " which is slower",
        default="joined",
    )
    on_corrupt: Literal["fail", "skip"] = setting(
        "fail: a damaged block ends the run; skip: its sequences are masked and recorded in data_events.jsonl",
        default="fail",
    )
    loader_workers: int = setting(
        "prefetch threads per worker; 0 reads in the training thread", default=1, minimum=0, maximum=64
    )
    cache_directory: str | None = setting(
        "cache directory of a node for blocks of remote data sets; null is ~/.cache/sisa-scale/blocks", default=None
    )
    cache_bytes: int = setting("largest size of the cache in bytes", default=16 << 30, minimum=1)

    @property
    def global_batch_sequences(self) -> int:
        """Sequences of one optimizer step over all workers, after the ramp."""
        return self.global_batch_tokens // self.sequence_tokens

    @property
    def batches(self) -> GlobalBatches:
        """The global batch of every step."""
        return GlobalBatches(self.sequence_tokens, self.global_batch_tokens, self.global_batch_ramp)

    @property
    def sources(self) -> Mapping[str, MixSource]:
        """The data sets in the order in which the mixture counts them: by name; a single one is called "data"."""
        if self.path is not None:
            return {"data": MixSource(path=self.path, weight=1.0)}
        return dict(sorted(self.mix.items()))

    def at(self, location: str) -> "DataConfig":
        """Return the section with one data set in place of its own."""
        return replace(self, path=location, mix={}, stages=())

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        for key, found, tokens in self.stated_batches():
            if tokens % self.sequence_tokens:
                nearest = max(1, round(tokens / self.sequence_tokens)) * self.sequence_tokens
                yield Violation(
                    key,
                    found,
                    f"must be a multiple of data.sequence_tokens {self.sequence_tokens}",
                    f"The nearest is {nearest}.",
                )
        yield from self._ramp_rules()
        if bool(self.path) == bool(self.mix):
            found = "both path and mix" if self.mix else "neither path nor mix"
            yield Violation("path", found, "one of the two says what is read", "Set data.path or data.mix.")
        yield from self._mix_rules()
        yield from self._stage_rules()

    def stated_batches(self) -> Iterator[tuple[str, str, int]]:
        """Yield the global batches of the run: the setting that states one, in words, and its tokens."""
        yield "global_batch_tokens", str(self.global_batch_tokens), self.global_batch_tokens
        for stage in self.global_batch_ramp:
            tokens = stage.global_batch_tokens
            yield "global_batch_ramp", f"{tokens} until {stage.until}", tokens

    def _ramp_rules(self) -> Iterator[Violation]:
        batches = self.batches
        if any(after <= before for before, after in pairwise(batches.stage_tokens)):
            yield Violation(
                "global_batch_ramp",
                f"batches of {', '.join(map(str, batches.stage_tokens))} tokens, the last data.global_batch_tokens",
                "every batch is larger than the one before",
                "Put the stages in order, or leave out those that do not raise the batch.",
            )
        if any(after <= before for before, after in pairwise(batches.first_steps)):
            yield Violation(
                "global_batch_ramp",
                f"stages until the steps {', '.join(map(str, batches.first_steps[1:]))}",
                "every stage has at least one whole step and ends after the one before",
                "Move the ends apart, or leave out a stage.",
            )

    def _mix_rules(self) -> Iterator[Violation]:
        for name in self.mix:
            if not _NAME.fullmatch(name):
                yield Violation("mix", repr(name), "names are letters, digits, _ and -", "Rename the source.")
        if self.mix and not any(source.weight for source in self.mix.values()):
            yield Violation("mix", "only weights of 0", "at least one weight is above 0", "Raise one.")

    def _stage_rules(self) -> Iterator[Violation]:
        for stage in self.stages:
            if stage.weights.keys() != self.mix.keys():
                yield Violation(
                    "stages",
                    f"weights for {', '.join(stage.weights) or 'nothing'}",
                    f"every stage has a weight for each source of data.mix: {', '.join(self.mix) or 'there is none'}",
                    "Name them all; 0 leaves a source out.",
                )
            elif not any(stage.weights.values()):
                yield Violation("stages", "only weights of 0", "at least one weight is above 0", "Raise one.")
        starts = [0, *(self.batches.steps(stage.start) for stage in self.stages)]
        if any(after <= before for before, after in pairwise(starts)):
            yield Violation(
                "stages",
                f"stages from the steps {', '.join(map(str, starts[1:]))}",
                "every stage begins after the one before, the first after step 0",
                "Put them in order.",
            )
