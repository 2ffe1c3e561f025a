"""The commands that look into data sets, on a small real one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from data_sets import data_config, serve

from sisa_scale.cli.main import cli
from sisa_scale.data.build.embedded import build_embedded
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.errors import ConfigError, DataError

ORDER = ("--seed", "5", "--global-batch-tokens", "4096", "--sequence-tokens", "256")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("embedded") / "data"
    build_embedded(directory)
    return directory


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def run_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


def test_fingerprint_is_that_of_the_stream(embedded: Path) -> None:
    expected = TokenStream(data_config(embedded, 16, 256, seed=5)).sha256(3, 9)
    found = run_json("data", "fingerprint", embedded, *ORDER, "--steps", "3:9", "--world-size", 3)
    assert (found["sha256"], found["steps"], found["world_size"]) == (expected, [3, 9], 3)
    steps = ("--steps", "3:9", "--world-size", 16, "--loader-workers", 4)
    assert run("data", "fingerprint", embedded, *ORDER, *steps).split() == [expected]


def test_fingerprint_over_http(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serve(embedded, has_ranges=False) as server:
        steps = ("--steps", "0:4")
        found = run("data", "fingerprint", server.url, *ORDER, *steps)
        assert found == run("data", "fingerprint", embedded, *ORDER, *steps)
        assert run_json("data", "inspect", server.url) == run_json("data", "inspect", embedded)
        assert "every file is as it was built" in run("data", "verify", server.url)
    assert list(tmp_path.glob("sisa-scale/blocks/??/*"))


@pytest.mark.parametrize("steps", ["3", "3:3", "9:3", "a:b", "-1:4"])
def test_steps_are_two_numbers(embedded: Path, steps: str) -> None:
    with pytest.raises(ConfigError, match="A:B"):
        run("data", "fingerprint", embedded, *ORDER, f"--steps={steps}")


def test_batches_are_whole_sequences(embedded: Path) -> None:
    with pytest.raises(ConfigError, match="a multiple of --sequence-tokens"):
        run("data", "fingerprint", embedded, "--global-batch-tokens=300", "--sequence-tokens=256", "--steps=0:1")


def test_sample_prints_text_and_origin(embedded: Path) -> None:
    found = run_json("data", "sample", embedded, *ORDER, "--step", 7, "--index", 3)
    assert (found["step"], found["index"], found["position"]) == (7, 3, 7 * 16 + 3)
    assert found["documents"][0]["file"].endswith("gutenberg.jsonl.zst")
    shown = run("data", "sample", embedded, *ORDER, "--step", 7, "--index", 3)
    assert found["shard"] in shown
    assert found["documents"][0]["text"][:40] in shown


def test_build_says_what_it_read_and_passed_over(embedded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "book.txt").write_text("A whale swam through the storm of the night.\n" * 300)
    (folder / "bad.jsonl").write_text('{"text": null}\n')
    (folder / "notes.md").write_text("words")
    build = ("data", "build", folder, "--tokenizer", embedded / "tokenizer.json", "--out", tmp_path / "out")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1: found null"):
        run(*build)
    said = run(*build, "--on-bad-record", "skip")
    for words in (
        "passing over 1:",
        "notes.md: its ending '.md'",
        "bad.jsonl, line 1",
        "read 1: book.txt",
        "passed over 2",
    ):
        assert words in said
    found = run_json("data", "inspect", tmp_path / "out")
    assert found["sources"] == ["book.txt"]
    assert [entry["name"] for entry in found["passed_over"]] == ["notes.md", "bad.jsonl"]
    assert found["heldout_rule"] == "stretches"
    with serve(tmp_path / "out") as server:
        run("data", "card", server.url, "--out", tmp_path / "remote.html")
    assert "notes.md" in (tmp_path / "remote.html").read_text()


def test_verify_and_diff(embedded: Path, tmp_path: Path) -> None:
    assert "every file is as it was built" in run("data", "verify", embedded)
    assert "equal" in run("data", "diff", embedded, embedded)
    other = shutil.copytree(embedded, tmp_path / "other")
    shard = other / "train-000000.tar"
    raw = bytearray(shard.read_bytes())
    raw[5000] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=r"train-000000\.tar: found the SHA-256"):
        run("data", "verify", other)
    manifest = json.loads((other / "dataset.json").read_text())
    assert run_json("data", "diff", embedded, other) == []  # as their manifests say
    assert manifest["fingerprint"] in run("data", "inspect", other, "--json")


def test_mix_says_what_a_run_reads(embedded: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mix.yaml"
    recipe.write_text(
        f"""
extends: quickstart
data:
  path: null
  mix:
    web: {{path: {embedded}, weight: 0.7}}
    books: {{path: {embedded}, weight: 0.3, max_epochs: 2}}
  stages:
    - {{from: 100 steps, weights: {{web: 0.5, books: 0.5}}}}
"""
    )
    found = run_json("data", "mix", recipe)
    books, web = found["sources"]
    assert (found["steps"], books["source"], web["source"]) == (200, "books", "web")
    assert books["tokens"] + web["tokens"] == 200 * 4096
    assert 0.39 < books["share"] < 0.41
    assert (books["effective_weight"], web["effective_weight"]) == pytest.approx((0.3, 0.7), abs=1e-3)
    assert run_json("data", "mix", recipe, "--steps", 0)["sources"][0]["tokens"] == 0
    assert "from step 100 on" in run("data", "mix", recipe)
    with pytest.raises(ConfigError, match=r"data\.mix\.books\.max_epochs: found 200 steps"):
        run("data", "mix", recipe, "data.mix.books.max_epochs=0.2")
