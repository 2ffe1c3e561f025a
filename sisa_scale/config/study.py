"""A scaling study as one frozen value: which architectures, sizes, lengths and seeds, and what it may cost."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sisa_scale.config.duration import Duration
from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.learning_rate import LearningRateRule, sweep_violations
from sisa_scale.config.loading.load import parse_override, resolve_section
from sisa_scale.config.loading.strict import did_you_mean
from sisa_scale.config.loading.yaml_source import merge, read_settings

Match = Literal["parameters", "nonembedding_parameters", "flops", "none"]
SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchitectureConfig:
    """One architecture: what a run of it has beyond the study's own recipe."""

    recipe: str | None = setting(
        "recipe of its runs, {size} stands for the name of the size; null is the study's", default=None
    )
    overrides: tuple[str, ...] = setting("key=value for its runs, such as model.kind=transformer", default=())
    match: Match | None = setting(
        "what model.d_ff is solved for, as many as the reference has at that size; none keeps the recipe's; "
        "null is the study's",
        default=None,
    )
    learning_rate_scale: float = setting("factor on the learning rate of the rule", default=1.0, above=0.0)
    learning_rate_sweep: tuple[float, ...] = setting(
        "rates of its tuning trials; empty means those of the study's sweep", default=(), above=0.0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeConfig:
    """One size; what is null stays as the recipe has it."""

    d_model: int | None = setting("width of the residual stream", default=None, minimum=1)
    num_layers: int | None = setting("number of blocks", default=None, minimum=1)
    num_heads: int | None = setting("heads of blocks with attention", default=None, minimum=1)
    d_ff: int | None = setting("width of the MLP of the reference architecture", default=None, minimum=0)
    overrides: tuple[str, ...] = setting("key=value for its runs", default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetsConfig:
    """How long the runs of a size are: one of the three."""

    tokens: tuple[int, ...] = setting("training tokens", default=(), minimum=1)
    tokens_per_parameter: tuple[float, ...] = setting(
        "training tokens per parameter of the reference architecture at that size", default=(), above=0.0
    )
    flops: tuple[float, ...] = setting("training FLOPs of the run itself (isoFLOP levels)", default=(), above=0.0)

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        given = [name for name in ("tokens", "tokens_per_parameter", "flops") if getattr(self, name)]
        if len(given) != 1:
            yield Violation(
                "tokens",
                " and ".join(given) or "nothing",
                "one of tokens, tokens_per_parameter and flops says how long runs are",
                "Keep one of them.",
            )
        for name in given:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                yield Violation(name, str(list(values)), "every budget stands once", "Remove the repeated one.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyScheduleConfig:
    """Warmup-stable-decay for every run: the longest run of a size is the trunk, shorter ones branch off it."""

    trunk: bool = setting(
        "shorter trials branch from the longest before their cooldown; false trains each from the start", default=True
    )
    warmup: Duration = setting("linear warm-up, equal for all trials")
    decay_fraction: float = setting("cooldown as a fraction of the trial", default=0.2, above=0.0, maximum=0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class CostConfig:
    """What the study costs by estimate, and may cost."""

    gpu: str | None = setting("GPU type, such as h100, for the estimate of hours from measured MFU", default=None)
    sustained_flops_per_second: float | None = setting(
        "instead of gpu: sustained model FLOPs per second and worker", default=None, above=0.0
    )
    overhead_seconds: float = setting(
        "seconds per trial for start, evaluation and checkpoints", default=20.0, minimum=0.0
    )
    max_device_hours: float | None = setting(
        "limit of GPU-hours (or CPU-worker hours) of the plan; null sets none", default=None, above=0.0
    )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if (self.gpu is None) == (self.sustained_flops_per_second is None):
            found = "neither" if self.gpu is None else "both"
            yield Violation(
                "gpu", found, "hours follow from gpu or from sustained_flops_per_second", "Write one of the two."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """A study: everything that decides its runs."""

    name: str = setting("name of the study")
    description: str = setting("question that the study answers", default="")
    study_dir: str | None = setting("study directory; null means runs/studies/<name>", default=None)
    recipe: str | None = setting("base recipe of all trials", default=None)
    overrides: tuple[str, ...] = setting("key=value for all trials, such as evaluation.num_heldout_sequences=256",
                                         default=())  # fmt: skip
    data: str | None = setting(
        "data set of all trials; sample builds the text of the package into the study; null uses the recipe's",
        default=None,
    )
    architectures: Mapping[str, ArchitectureConfig] = setting("by name", default_factory=dict)
    reference: str = setting("architecture that the others are matched to and compared with")
    match: Match = setting("what model.d_ff of the others is solved for", default="parameters")
    d_ff_multiple: int = setting("a solved d_ff is a multiple of it", default=32, minimum=1)
    sizes: Mapping[str, SizeConfig] = setting("by name", default_factory=dict)
    budgets: BudgetsConfig = setting("lengths of the trials", default_factory=BudgetsConfig)
    seeds: int | tuple[int, ...] = setting(
        "seeds of weights and of the order of the data, the same for all architectures: a list, or how many from 0 on",
        default=(0,),
        minimum=0,
    )
    schedule: StudyScheduleConfig = setting("learning rate over a run")
    learning_rate: LearningRateRule | None = setting("peak learning rate; null uses the recipe's", default=None)
    cost: CostConfig = setting("estimate and limit")

    @property
    def directory(self) -> Path:
        """The study directory."""
        return Path(self.study_dir) if self.study_dir else Path("runs") / "studies" / self.name

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def sweep_of(self, architecture: str) -> tuple[float, ...]:
        """The rates of the tuning trials of an architecture, from low to high; empty where none is tuned."""
        rule = self.learning_rate
        if rule is None or not rule.sweep:
            return ()
        return tuple(sorted(self.architectures[architecture].learning_rate_sweep or rule.sweep))

    def violations(self) -> Iterator[Violation]:
        """Rules between sections."""
        for name, table in (("architectures", self.architectures), ("sizes", self.sizes)):
            if not table:
                yield Violation(name, "nothing", "a study has at least one", f"Write them below {name}.")
            for key in table:
                if not key.replace("-", "").replace("_", "").isalnum():
                    yield Violation(
                        name, repr(key), "names are letters, digits, - and _: runs are named after them", "Rename it."
                    )
        seeds = self.seed_list
        if not seeds or len(set(seeds)) < len(seeds):
            yield Violation("seeds", str(list(seeds)), "one or more different seeds", "Correct the list.")
        yield from self._sweep_violations()
        if self.architectures and self.reference not in self.architectures:
            hint = did_you_mean(self.reference, self.architectures)
            yield Violation("reference", self.reference, "must be one of the architectures", hint)
        for name, architecture in self.architectures.items():
            if architecture.recipe is None and self.recipe is None:
                yield Violation(
                    "recipe", "nothing", f"architecture {name} has no recipe of its own", "Set recipe for the study."
                )

    def _sweep_violations(self) -> Iterator[Violation]:
        rule = self.learning_rate
        is_swept = rule is not None and bool(rule.sweep)
        if rule is not None and rule.at is not None and self.sizes and rule.at.size not in self.sizes:
            hint = did_you_mean(rule.at.size, self.sizes)
            yield Violation("learning_rate.at.size", rule.at.size, "must be one of the sizes", hint)
        for name, architecture in self.architectures.items():
            key = f"architectures.{name}.learning_rate_sweep"
            if architecture.learning_rate_sweep and not is_swept:
                rule_text = "an architecture's own rates stand in for those of learning_rate.sweep"
                yield Violation(key, "rates", rule_text, "Write learning_rate.sweep and .at, or remove it.")
            elif architecture.learning_rate_sweep:
                yield from sweep_violations(key, architecture.learning_rate_sweep)
            if is_swept and architecture.learning_rate_scale != 1:
                yield Violation(
                    f"architectures.{name}.learning_rate_scale",
                    f"{architecture.learning_rate_scale:g}",
                    "a swept rate is tuned, not scaled",
                    "Remove it; other rates to try are its learning_rate_sweep.",
                )


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """Read a study (a path, or the name of a shipped one) and apply `key=value` overrides.

    Raises ConfigError that lists every problem found, each with file and line.
    """
    settings = read_settings(Path(path))
    for override in overrides:
        merge(settings, parse_override(override, StudyConfig))
    return resolve_section(StudyConfig, settings, "study")
