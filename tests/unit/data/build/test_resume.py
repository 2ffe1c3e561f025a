"""Builds that are killed go on where they were, and end in the bytes of a build that was not."""

import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from data_sets import CountingRunner, contents

from sisa_scale.data.build.pipeline import BuildProgress, build_dataset
from sisa_scale.data.build.settings import WorkSettings
from sisa_scale.data.build.shards.staging import open_staging, staging_path
from sisa_scale.data.build.shards.summaries import UnitSummary
from sisa_scale.data.build.unit_work import Report, work_on_unit
from sisa_scale.data.build.units import Unit
from sisa_scale.data.manifest import load_manifest
from sisa_scale.errors import DataError

UNIT_BYTES = 12_000
SETTINGS = {
    "block_tokens": 256,
    "blocks_per_shard": 7,
    "heldout_fraction": 0.1,
    "unit_bytes": UNIT_BYTES,
    "deduplicate": True,
    "resumable": True,
}
build = partial(build_dataset, **SETTINGS)

# Kills itself with SIGKILL at a place of the build: (stage, how many calls of the progress callback before).
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from sisa_scale.data.build import pipeline as module
from sisa_scale.data.build.unit_work import work_on_unit

place, count, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
seen = 0

def die_at(here):
    global seen
    if here == place:
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

def run(units, work, directory, report):
    if work.stage == "survey":
        return module.run_here(units, work, directory, report)
    summaries = []
    for number, unit in enumerate(units):
        summaries.append(work_on_unit(unit, work, directory, lambda summary, source: die_at("in a unit")))
        die_at("between units")
    return summaries

corpus, second, tokenizer, out = map(Path, sys.argv[4:])
module.build_dataset(
    [corpus, second], tokenizer=tokenizer, out=out, run_units=run,
    progress=lambda progress: die_at(progress.stage), **settings,
)
"""


def kill_at(place: str, count: int, corpus: Path, second: Path, tokenizer: Path, out: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, place, str(count), json.dumps(SETTINGS)]
    done = subprocess.run([*command, *map(str, (corpus, second, tokenizer, out))], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def second(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus once more, under another name."""
    return Path(shutil.copy(corpus, tmp_path_factory.mktemp("second") / "second.jsonl"))


@pytest.fixture(scope="module")
def whole(
    corpus: Path, second: Path, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "dataset"
    build([corpus, second], tokenizer=tokenizer_path, out=out)
    return contents(out)


@pytest.mark.parametrize(
    ("place", "count", "num_finished"), [("in a unit", 4, 3), ("between units", 4, 4), ("assemble", 1, None)]
)
def test_killed_builds_go_on(
    corpus: Path,
    second: Path,
    tokenizer_path: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    place: str,
    count: int,
    num_finished: int | None,
) -> None:
    out = tmp_path / "dataset"
    kill_at(place, count, corpus, second, tokenizer_path, out)
    assert not out.exists()
    num_units = 2 * -(-corpus.stat().st_size // UNIT_BYTES)
    assert num_units > 8
    runner = CountingRunner()
    seen: list[BuildProgress] = []
    build([corpus, second], tokenizer=tokenizer_path, out=out, run_units=runner, progress=seen.append)
    assert runner.num_units == (0 if num_finished is None else num_units - num_finished)
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert seen[-1].num_documents == 300


def test_a_build_can_be_killed_again_and_again(
    corpus: Path, second: Path, tokenizer_path: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "dataset"
    for _ in range(3):
        kill_at("in a unit", 3, corpus, second, tokenizer_path, out)
    runner = CountingRunner()
    build([corpus, second], tokenizer=tokenizer_path, out=out, run_units=runner)
    assert runner.num_units == 2 * -(-corpus.stat().st_size // UNIT_BYTES) - 6
    assert contents(out) == whole


def test_other_settings_begin_anew_and_keep_what_was_done(
    corpus: Path, second: Path, tokenizer_path: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "dataset"
    kill_at("between units", 2, corpus, second, tokenizer_path, out)

    def interrupt(progress: BuildProgress) -> None:
        if progress.stage == "tokenize":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([corpus, second], tokenizer=tokenizer_path, out=out, min_characters=5, progress=interrupt)
    runner = CountingRunner()
    build([corpus, second], tokenizer=tokenizer_path, out=out, run_units=runner)
    assert runner.num_units == 2 * -(-corpus.stat().st_size // UNIT_BYTES) - 2
    assert contents(out) == whole


def test_changed_files_are_read_again(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "corpus.jsonl"
    mine.write_bytes(corpus.read_bytes() + b'{"text":"b"}\n')
    out = tmp_path / "dataset"

    def interrupt(progress: BuildProgress) -> None:
        if progress.stage == "assemble":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([corpus, mine], tokenizer=tokenizer_path, out=out, progress=interrupt)
    mine.write_bytes(corpus.read_bytes() + b'{"text": ""}\n')  # as long as before, so cut alike
    runner = CountingRunner()
    build([corpus, mine], tokenizer=tokenizer_path, out=out, run_units=runner)
    assert runner.num_units == -(-mine.stat().st_size // UNIT_BYTES)
    again = build([corpus, corpus], tokenizer=tokenizer_path, out=tmp_path / "other")
    assert load_manifest(out).fingerprint == again.fingerprint


def test_two_builds_at_once_are_refused(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    with open_staging(out, is_resumable=True), pytest.raises(DataError, match="another build at work"):
        build([corpus], tokenizer=tokenizer_path, out=out)
    build([corpus], tokenizer=tokenizer_path, out=out)


def test_interrupted_builds_keep_what_is_done(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    def interrupt(progress: BuildProgress) -> None:
        if progress.stage == "tokenize" and progress.num_documents > 60:
            raise KeyboardInterrupt

    out = tmp_path / "dataset"
    with pytest.raises(KeyboardInterrupt):
        build([corpus], tokenizer=tokenizer_path, out=out, progress=interrupt)
    assert list((staging_path(out) / "units").glob("*.json"))
    assert not list((staging_path(out) / "units").glob(".*"))


def test_units_give_the_same_bytes_in_any_order(
    corpus: Path, second: Path, tokenizer_path: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    def backwards(units: list[Unit], settings: WorkSettings, directory: Path, _: Report) -> list[UnitSummary]:
        done = [work_on_unit(unit, settings, directory, lambda *_: None) for unit in reversed(units)]
        return done[::-1]

    build([corpus, second], tokenizer=tokenizer_path, out=tmp_path / "out", run_units=backwards)  # type: ignore[arg-type]
    assert contents(tmp_path / "out") == whole
