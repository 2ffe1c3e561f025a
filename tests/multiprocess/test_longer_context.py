"""A trained model beyond its trained length: in `generate`, in `evaluate`, and in a run that begins with it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import metrics, run_command, start_workers

from sisa_scale.runs.logs.evaluations import read_later_scores

LONGER = ["--set", "model.max_length_tokens=512"]
PROMPT = "In the beginning " * 60  # beyond 64 tokens
WEIGHTS = {
    "sisa": [],
    "hymba": ["model.kind=hymba", "model.hymba={attention: sisa, num_kv_heads: 1, state_width: 8, head_width: 32}"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[[Path], Path]) -> Path:
    root = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(root)
    start_workers(
        1, [("train", recipe, [f"run_dir={root}/{name}", "total=7 steps", *more]) for name, more in WEIGHTS.items()]
    )
    return root


@pytest.mark.parametrize("name", WEIGHTS)
def test_generate_goes_on_where_a_choice_is_made(trained: Path, name: str) -> None:
    asked = ["generate", trained / name, "--max-tokens", "3", "--temperature", "0", "--json"]
    code, output = run_command(*asked, PROMPT)
    assert code == 2 and "model.rope.scaling" in output
    code, output = run_command(*asked, PROMPT, *LONGER)
    assert code == 2 and "none (as they are), linear, ntk or yarn" in output
    code, output = run_command(*asked, PROMPT, *LONGER, "--set", "model.rope.scaling=yarn")
    assert code == 0 and len(json.loads(output)[0]["tokens"]) == 3
    (_, short), (_, extended) = (
        run_command(*asked, "In the beginning", *more) for more in ([], [*LONGER, "--set", "model.rope.scaling=none"])
    )
    assert json.loads(short) == json.loads(extended)


def test_evaluate_scores_longer_contexts(trained: Path) -> None:
    code, output = run_command(
        "evaluate", trained / "sisa", "--tasks", "needle,needle-curve", "--json", "--record", *LONGER,
        "--set", "model.rope.scaling=linear", "--set", "context_multiples=[1, 8, 16]",
        "--set", "evaluation.context_tokens=128", "--set", "evaluation.needle_lengths=[64, 128]",
        "--set", "num_needle_items=2",
    )  # fmt: skip
    assert code == 0, output
    scores = {score["metric"]: score for score in json.loads(output)["scores"]}
    assert scores["exact_match_128"]["value"] is not None
    assert scores["exact_match_512"]["value"] is not None  # eight times the trained length
    assert "model.max_length_tokens" in scores["exact_match_1024"]["note"]
    [later] = read_later_scores(trained / "sisa")
    assert later.rope_scaling == "linear" and later.step == 7


def test_a_run_begins_with_trained_weights_and_longer_sequences(trained: Path) -> None:
    recipe, longer = trained / "tiny.yaml", ["max_length_tokens=128", "sequence_tokens=128", "rope.scaling=yarn"]
    begin = [f"begin_from={trained}/sisa", "total=4 steps", "learning_rate=1e-5", "warmup=1 steps", "decay=1 steps"]
    code, output = run_command("train", recipe, f"run_dir={trained}/forgot", *begin, *longer)
    assert code == 2 and "Write 64" in output
    start_workers(2, [("train", recipe, [f"run_dir={trained}/longer", *begin, *longer, "trained_length_tokens=64"])])
    last, first = metrics(trained / "sisa")[-1]["loss"], metrics(trained / "longer")[0]["loss"]
    fresh = metrics(trained / "sisa")[0]["loss"]
    assert first < (last + fresh) / 2  # nearer to what was learned than to where it began
