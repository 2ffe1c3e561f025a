"""What a build will do, decided before anything is tokenized: which files go in, in which units, what is held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sisa_scale.data.build.holding import Holding, choose_holding
from sisa_scale.data.build.inputs.find import Found, PassedOver
from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.inputs.survey import is_surveyed
from sisa_scale.data.build.settings import BuildSettings
from sisa_scale.data.build.shards.summaries import BadEntry, PartSurvey, UnitSummary
from sisa_scale.data.build.texts.record_files import no_document
from sisa_scale.data.build.units import Measure, Unit, plan_units
from sisa_scale.errors import DataError, Problem

_MAX_SHOWN, _MAX_SHOWN_OF_FILE, _MAX_ANNOUNCED = 10, 3, 20


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A build. num_bytes: of the text of the inputs, about; files without a document are passed over."""

    files: list[Input]
    passed_over: list[PassedOver]
    units: list[Unit]
    holding: Holding
    num_bytes: int


# Reads units without tokenizing them.
Surveyor = Callable[[Sequence[Unit]], list[UnitSummary]]


def plan_build(found: Found, settings: BuildSettings, survey: Surveyor, announce: Callable[[str], None]) -> BuildPlan:
    """Read the inputs once and plan. Raises DataError for bad records and empty files, unless they are skipped."""
    is_skipping = settings.on_bad_record == "skip"
    files, passed_over = list(found.files), list(found.passed_over)
    empty = [file for file in files if not file.num_bytes]
    if empty and not is_skipping:
        raise DataError.many(_shown([no_document(file) for file in empty], len(empty), "empty files"))
    surveyed = [file for file in files if file.num_bytes and is_surveyed(file)]
    results = _survey(list(dict.fromkeys(surveyed)), settings.unit_bytes, survey)
    problems = [entry.problem for result in results.values() for entry in result.bad]
    num_bad = sum(result.num_bad for result in results.values())
    without = [file for file in surveyed if not results[file].num_texts and (is_skipping or not results[file].num_bad)]
    if not is_skipping and (problems or without):
        problems += [no_document(file) for file in without]
        raise DataError.many(_shown(problems, num_bad + len(without), "bad records or empty files"))
    dropped = {*empty, *without}
    passed_over += [PassedOver(file.name, "it holds no document") for file in files if file in dropped]
    files = [file for file in files if file not in dropped]
    if num_bad:
        announce(f"leaving out {num_bad:,} bad records (--on-bad-record skip)")
        for problem in problems[:_MAX_SHOWN]:
            announce(f"  {problem.where}: found {problem.found}")
    if not files:
        raise DataError.many([no_document(file) for file in found.files[:_MAX_SHOWN]])
    surveys = [part for file in files for part in (results[file].surveys if file in results else [None])]
    holding = choose_holding(settings.heldout_fraction, surveys, settings.cleaning)
    if holding.reason:
        announce(holding.reason)
    measures = {file: result.measure for file, result in results.items()}
    units = plan_units(files, settings.unit_bytes, measures, heldout_fraction=holding.fraction, cutting=holding.cutting)
    num_bytes = sum(results[file].num_text_bytes if file in results else file.num_bytes for file in files)
    return BuildPlan(files, passed_over, units, holding, num_bytes)


def announce_inputs(found: Found, announce: Callable[[str], None]) -> None:
    """Say what is read, and what is passed over and why."""
    num_bytes = sum(file.num_bytes for file in found.files)
    announce(f"reading {len(found.files):,} file{'s'[: len(found.files) != 1]}, {num_bytes:,} bytes as stored")
    if found.passed_over:
        announce(f"passing over {len(found.passed_over):,}:")
    for entry in found.passed_over[:_MAX_ANNOUNCED]:
        announce(f"  {entry.name}: {entry.reason}")
    if len(found.passed_over) > _MAX_ANNOUNCED:
        announce(f"  and {len(found.passed_over) - _MAX_ANNOUNCED:,} more, which dataset.json will list")


class _FileSurvey:
    """What the parts of a file come to."""

    def __init__(self, file: Input) -> None:
        self.file = file
        self.surveys: list[PartSurvey] = []
        self.bad: list[BadEntry] = []
        self.num_texts = self.num_bad = 0

    @property
    def measure(self) -> Measure:
        """How long the file is, unpacked."""
        is_plain = self.file.kind != "txt" and not self.file.packing
        num_bytes = self.file.num_bytes if is_plain else sum(survey.num_bytes for survey in self.surveys)
        return Measure(num_bytes, next((survey.digest for survey in self.surveys), None))

    @property
    def num_text_bytes(self) -> int:
        """Of its documents."""
        return sum(survey.num_text_bytes for survey in self.surveys)


def _survey(files: Sequence[Input], unit_bytes: int, survey: Surveyor) -> dict[Input, _FileSurvey]:
    units = plan_units(files, unit_bytes)
    results = {file: _FileSurvey(file) for file in files}
    for unit, summary in zip(units, survey(units), strict=True):
        for part, counts in zip(unit.parts, summary.parts, strict=True):
            result = results[part.file]
            result.surveys.append(counts.survey or PartSurvey())
            result.bad += counts.bad
            result.num_bad += counts.removed.get("bad_record", 0)
            result.num_texts += counts.num_texts
    return results


def _shown(problems: list[Problem], count: int, what: str) -> list[Problem]:
    """Return the first problems, and what can be done about all of them."""
    summary = Problem(
        "inputs",
        found=f"{count:,} {what} in all",
        allowed="with --on-bad-record fail, the default, a build begins only when there are none",
        remedy="Correct them, or add --on-bad-record skip: it leaves them out and lists them.",
    )
    shown: list[Problem] = []
    for problem in problems:
        file = problem.where.partition(", ")[0]
        if len(shown) < _MAX_SHOWN and sum(other.where.startswith(file) for other in shown) < _MAX_SHOWN_OF_FILE:
            shown.append(problem)
    return [*shown, summary]
