"""`sisa-scale evaluate` and `generate`: every form of a checkpoint, with or without the data set."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conversion_cases import native, small

from sisa_scale.api import load_checkpoint
from sisa_scale.cli.evaluate import command as evaluate
from sisa_scale.cli.generate import command as generate
from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.tokenizer import train_tokenizer
from sisa_scale.errors import CheckpointError, ConfigError, DataError
from sisa_scale.evaluation.resources import load_resources
from sisa_scale.evaluation.tasks import lambada
from sisa_scale.runs.logs.evaluations import read_later_scores

TEXT = "the old man saw a boat on the wide sea and took it home before the long night came over land"

LONGER = [
    *("--set", "model.max_length_tokens=512", "--set", "model.rope.scaling=yarn"),
    *("--set", "evaluation.context_multiples=[1, 8, 10]", "--set", "evaluation.num_needle_items=2"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a data set, its tokenizer, another of as many ids, and a checkpoint in three forms."""
    root = tmp_path_factory.mktemp("place")
    train_tokenizer([TEXT] * 9, 320, root / "tokenizer.json")
    train_tokenizer([TEXT[::-1]] * 9, 320, root / "other.json")
    rows = [json.dumps({"text": f"{TEXT} {number} " * 8}) for number in range(60)]
    (root / "text.jsonl").write_text("\n".join(rows) + "\n")
    build_dataset(
        [root / "text.jsonl"],
        tokenizer=root / "tokenizer.json",
        out=root / "data",
        block_tokens=512,
        heldout_fraction=0.3,
    )
    model = small("sisa", vocab_size=320, num_layers=1)
    native(root / "native", model, data=str(root / "data"))
    native(root / "moved", model, data=str(root / "gone"))
    convert(root / "moved", root / "safetensors", "safetensors")
    convert(root / "moved", root / "huggingface", "huggingface", tokenizer=root / "tokenizer.json")
    return root


def run(command: object, *arguments: object) -> object:
    done = CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu", "--json"])  # type: ignore[arg-type]
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def test_every_form_gives_the_same_text_and_scores(place: Path, tmp_path: Path) -> None:
    texts, scores = [], []
    for form in ("native", "safetensors", "huggingface"):
        tokenizer = ["--tokenizer", place / "tokenizer.json"]
        found = run(generate, place / form, "the old man", "--temperature", "0", "--max-tokens", 6, *tokenizer)
        texts.append(found)
        data = ["--data", place / "data", *tokenizer, "--tasks", "loss,needle-paper,needle-curve", *LONGER]
        scores.append(run(evaluate, place / form, *data)["scores"])  # type: ignore[index]
    assert texts[0] == texts[1] == texts[2]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0][0]["value"] > 0
    measured = {score["metric"]: score["num_items"] for score in scores[0] if score["task"] == "needle-curve"}
    assert measured == {"exact_match": 2, "exact_match_64": 2, "exact_match_512": 2, "exact_match_640": 0, "chance": 4}
    # A tokenizer that was exported differs from the data set's by rules that no text was encoded with.
    exported = place / "huggingface" / "tokenizer.json"
    assert run(generate, place / "native", "the old man", "--temperature", "0", "--max-tokens", 6, "--tokenizer",
               exported) == texts[0]  # fmt: skip
    assert torch.equal(
        load_checkpoint(place / "huggingface").model.embedding.weight,
        open_weights(place / "native").read("embedding.weight"),
    )


def test_a_file_of_passages_is_scored_whole_without_a_data_set(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"text": " ".join(TEXT.split()[number % 7 :])}) for number in range(30)]
    (tmp_path / "lambada.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(lambada, "OPENAI_NUM_PASSAGES", 30)
    monkeypatch.setattr(lambada, "sha256_file", lambda path: lambada.OPENAI_SHA256)
    chosen = ["--tokenizer", place / "tokenizer.json", "--lambada", tmp_path / "lambada.jsonl"]
    found = run(evaluate, place / "moved", *chosen, "--tasks", "lambada", "--set", "evaluation.num_cloze_items=5")
    assert [score["num_items"] for score in found["scores"]] == [30, 30]  # type: ignore[index]
    with pytest.raises(DataError, match="gone"):
        run(evaluate, place / "moved", *chosen, "--tasks", "lambada,loss")
    with pytest.raises(DataError, match="gone"):
        run(evaluate, place / "moved", *chosen[:2], "--tasks", "lambada")
    # A file that is named is scored, or nothing is: the run's own tasks hold no lambada.
    none = ["--set", "evaluation.tasks=[]"]
    scores = run(evaluate, place / "moved", *chosen, *none)["scores"]  # type: ignore[index]
    assert [score["task"] for score in scores] == ["lambada", "lambada"]
    with pytest.raises(ConfigError, match=r"--lambada: found the tasks needle.*--tasks needle,lambada"):
        run(evaluate, place / "moved", *chosen, "--tasks", "needle")
    with pytest.raises(ConfigError, match=r"--questions: found the tasks needle.*--tasks needle,hellaswag"):
        run(evaluate, place / "moved", *chosen[:2], "--tasks", "needle", "--questions", tmp_path)


def test_a_tokenizer_that_is_not_the_models_is_refused(place: Path, tmp_path: Path) -> None:
    other = place / "other.json"
    for command, rest in ((generate, ["the"]), (evaluate, ["--tasks", "loss"])):
        with pytest.raises(DataError, match="another tokenizer than the data set's"):
            run(command, place / "native", *rest, "--tokenizer", other)
    with pytest.raises(DataError, match="another tokenizer than the data set's"):
        convert(place / "native", tmp_path / "hf", "huggingface", tokenizer=other)
    train_tokenizer([f"{TEXT} {TEXT[::-1]}"] * 9, 340, tmp_path / "large.json")
    with pytest.raises(DataError, match="the model has 320"):
        run(generate, place / "moved", "the", "--tokenizer", tmp_path / "large.json")


@pytest.mark.parametrize(("option", "value"), [("--temperature", "-1"), ("--top-k", "-3"), ("--max-tokens", "0")])
def test_numbers_below_their_bound_are_refused(place: Path, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        run(generate, place / "native", "the", option, value)


def test_what_reads_native_checkpoints_alone_names_the_command_that_converts(place: Path) -> None:
    from sisa_scale.checkpoint.store import find_checkpoint

    with pytest.raises(CheckpointError, match=r"sisa-scale convert .*safetensors DST --to native"):
        find_checkpoint(place / "safetensors")


def test_a_task_without_its_data_says_which(place: Path) -> None:
    config = load_checkpoint(place / "moved").config
    resources = load_resources(config, place / "tokenizer.json")
    assert resources.task("needle-paper").skipped or resources.task("needle-paper").items
    with pytest.raises(DataError, match="gone"):
        resources.task("needle")


def test_without_a_prompt_heldout_text_is_continued(place: Path) -> None:
    found = run(generate, place / "native", "--max-tokens", 4)
    assert isinstance(found, list) and len(found) == 2
    assert all(row["prompt"] in f"{TEXT} " * 4 or "boat" in row["prompt"] for row in found)
    with pytest.raises(DataError):
        run(generate, place / "moved", "--tokenizer", place / "tokenizer.json")


def test_scores_are_noted_in_the_run_directory_alone(place: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(place / "native", run_dir)
    asked = ["--data", place / "data", "--tasks", "loss", "--set", "evaluation.num_heldout_sequences=2", "--record"]
    with pytest.raises(ConfigError, match="run directory"):
        run(evaluate, run_dir, *asked)
    (run_dir / "config.yaml").touch()
    found = run(evaluate, run_dir, *asked)
    [later] = read_later_scores(run_dir)
    assert later.settings == ("evaluation.num_heldout_sequences=2",)
    assert [row.value for row in later.scores] == [score["value"] for score in found["scores"]]  # type: ignore[index]
