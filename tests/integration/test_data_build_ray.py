"""`sisa-scale data build` on Ray: the same bytes for any number of workers, whatever is killed."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import finish, run_command, start_command

from sisa_scale.config.execution import ResourcesConfig
from sisa_scale.data.tokenizer import train_tokenizer
from sisa_scale.orchestration.cluster import ray_cluster

WORDS = ("the", "a", "sea", "éclair", "naïve", "鯨", "whale", "of", "storm", "—", "don't", "I'll", "1851", "🐳")
NUM_FILES, NUM_DOCUMENTS = 4, 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and about 3 MB of text in four files."""
    directory = tmp_path_factory.mktemp("corpus")
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(20, 220))) for _ in range(NUM_FILES * NUM_DOCUMENTS)]
    train_tokenizer(texts[:50], 300, directory / "words.json")
    for number in range(NUM_FILES):
        part = texts[number * NUM_DOCUMENTS : (number + 1) * NUM_DOCUMENTS] + texts[:100]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part)
        (directory / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ray_cluster(ResourcesConfig(workers=3, device="cpu")):
        import ray

        yield ray.get_runtime_context().gcs_address


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--deduplicate", "--unit-bytes", "150000", "--block-tokens", "4096", "--engine", "tokenizers", "--json"]
    inputs = [str(folder / f"{number}.jsonl") for number in range(NUM_FILES)]
    return ["data", "build", *inputs, "--tokenizer", str(folder / "words.json"), "--out", str(out), *fixed, *more]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name != "card.html"}


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "dataset"
    code, output = run_command(*arguments(folder, out))
    assert code == 0, output
    assert (out / "card.html").stat().st_size > 10_000
    return contents(out)


def working(out: Path) -> tuple[int, list[int]]:
    """How many units are done, and the processes that write one."""
    units = out.with_name(f".{out.name}.building") / "units"
    names = [path.name for path in units.glob("*")] + [path.name for path in units.glob(".*.tmp")]
    return sum(name.endswith(".documents") for name in names), [
        int(name.split(".")[-2]) for name in names if "documents" in name and name.endswith(".tmp")
    ]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    folder: Path, address: str, alone: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "dataset"
    code, output = run_command(*arguments(folder, out, "--workers", str(workers), "--address", address))
    assert code == 0, output
    assert contents(out) == alone


def test_killed_workers_and_a_killed_driver_leave_no_trace(
    folder: Path, address: str, alone: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    process = start_command(*arguments(folder, out, "--workers", "2", "--address", address))
    deadline = time.monotonic() + 60
    killed = 0
    while process.poll() is None and time.monotonic() < deadline:
        num_done, pids = working(out)
        if num_done >= 4 and killed:
            break
        if num_done >= 1 and pids and not killed:
            os.kill(pids[0], signal.SIGKILL)
            killed = pids[0]
        time.sleep(0.005)
    assert killed
    assert process.poll() is None, finish(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    num_done, _ = working(out)
    assert num_done >= 4
    assert not out.exists()
    while working(out)[1] and time.monotonic() < deadline:  # Ray ends the tasks of a driver that is gone
        time.sleep(0.1)
        if not any(Path(f"/proc/{pid}").exists() for pid in working(out)[1]):
            break
    code, output = run_command(*arguments(folder, out, "--workers", "3", "--address", address))
    assert code == 0, output
    assert contents(out) == alone
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_what_workers_find_bad_reaches_the_person(folder: Path, address: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": \n')
    code, output = run_command(
        *("data", "build", bad, "--tokenizer", folder / "words.json", "--out", tmp_path / "out"),
        *("--workers", "2", "--address", address),
    )
    assert code == 3, output
    assert "bad.jsonl, line 2: found a line that is not JSON" in output
    assert "the same command continues" not in output  # no unit was done
