"""The settings of a build and their bounds, and those of the work on a unit."""

from dataclasses import dataclass
from pathlib import Path

from sisa_scale.data.build.texts.cleaning import NORMALIZATIONS, Cleaning
from sisa_scale.data.build.texts.cuts import Cutting
from sisa_scale.data.packing import PACKINGS
from sisa_scale.errors import ConfigError

BAD_RECORD_POLICIES = ("fail", "skip")
MIN_BLOCK_TOKENS, MAX_BLOCK_TOKENS = 1 << 8, 1 << 24


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What decides, with the inputs and the tokenizer, which bytes a build gives; the meanings as `build_dataset`."""

    block_tokens: int
    blocks_per_shard: int
    heldout_fraction: float
    seed: int
    packing: str
    sequence_tokens: int | None
    unit_bytes: int
    cleaning: Cleaning
    on_bad_record: str = "fail"

    def check(self) -> None:
        """Raise ConfigError for the first setting that is out of range."""
        cleaning, sequence_tokens = self.cleaning, self.sequence_tokens
        is_power = self.block_tokens > 0 and self.block_tokens & (self.block_tokens - 1) == 0
        divides = sequence_tokens is not None and sequence_tokens >= 2 and not self.block_tokens % sequence_tokens
        rules = (
            (
                "block_tokens",
                self.block_tokens,
                is_power and MIN_BLOCK_TOKENS <= self.block_tokens <= MAX_BLOCK_TOKENS,
                f"a power of two from {MIN_BLOCK_TOKENS} to {MAX_BLOCK_TOKENS}",
            ),
            ("blocks_per_shard", self.blocks_per_shard, self.blocks_per_shard >= 1, "at least 1"),
            ("heldout_fraction", self.heldout_fraction, 0 <= self.heldout_fraction < 1, "0 or more and below 1"),
            ("seed", self.seed, 0 <= self.seed < 1 << 64, "an integer from 0 to 2**64 - 1"),
            ("packing", self.packing, self.packing in PACKINGS, f"one of {', '.join(PACKINGS)}"),
            (
                "sequence_tokens",
                sequence_tokens,
                divides if self.packing == "best_fit" else sequence_tokens is None,
                f"a power of two up to the block of {self.block_tokens} for best_fit, and left out otherwise",
            ),
            ("unit_bytes", self.unit_bytes, self.unit_bytes >= 1, "at least 1"),
            (
                "normalization",
                cleaning.normalization,
                cleaning.normalization in NORMALIZATIONS,
                f"one of {', '.join(NORMALIZATIONS)}",
            ),
            (
                "on_bad_record",
                self.on_bad_record,
                self.on_bad_record in BAD_RECORD_POLICIES,
                f"one of {', '.join(BAD_RECORD_POLICIES)}",
            ),
            ("min_characters", cleaning.min_characters, cleaning.min_characters >= 1, "at least 1"),
            ("min_tokens", cleaning.min_tokens, cleaning.min_tokens >= 1, "at least 1"),
        )
        for name, value, is_good, allowed in rules:
            if not is_good:
                raise ConfigError.at(name, found=str(value), allowed=allowed, remedy="Choose a value in this range.")


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """What the work on a unit depends on besides the unit. key: stands for all of it in the names of the results.

    stage: "survey" or "tokenize"; on_bad_record: no part of the key, because what has no bad record is the same.
    """

    key: str
    stage: str
    tokenizer: Path
    tokenizer_sha256: str
    engine: str
    engine_version: str
    eos_id: int
    vocab_size: int
    dtype: str
    cleaning: Cleaning
    heldout_fraction: float
    cutting: Cutting | None
    seed: int
    unit_bytes: int
    on_bad_record: str
