"""The recall benchmark: the task is what it says, and the tool runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_recall.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_recall", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("num_pairs", [1, 5, 64])
def test_every_asked_key_has_one_answer_in_sight(tool: ModuleType, num_pairs: int) -> None:
    tokens, values = tool.recall_batch(7, num_pairs, torch.Generator().manual_seed(0))
    assert tokens.shape == (7, 3 * num_pairs) and values.shape == (7, num_pairs)
    for row, expected in zip(tokens.tolist(), values.tolist(), strict=True):
        shown = dict(zip(row[: 2 * num_pairs : 2], row[1 : 2 * num_pairs : 2], strict=True))
        asked = row[2 * num_pairs :]
        assert len(shown) == num_pairs and sorted(asked) == sorted(shown)
        assert all(key < tool.NUM_KEYS <= value < tool.NUM_KEYS + tool.NUM_VALUES for key, value in shown.items())
        assert [shown[key] for key in asked] == expected


def test_sequences_differ_and_a_seed_repeats_them(tool: ModuleType) -> None:
    first, again, other = (tool.recall_batch(4, 8, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 4


def test_answers_are_read_where_keys_are_asked(tool: ModuleType) -> None:
    model = tool.build("transformer", 4, 8, 0.02, 0)
    tokens, _ = tool.recall_batch(2, 4, torch.Generator().manual_seed(0))
    everywhere = model.head.logits(model.hidden(tokens))
    assert torch.equal(tool.answers(model, tokens), everywhere[:, -4:])


def test_the_state_is_counted_in_what_decoding_keeps(tool: ModuleType) -> None:
    width, heads, length = tool.D_MODEL, 2, 48
    assert tool.state_floats(tool.build("transformer", 16, 8, 0.02, 0), length) == 2 * width * length
    d_s = 16
    sisa = (2 * width + heads * d_s) * length + heads * (1 + d_s // 2)  # keys and values; decay and phases
    assert tool.state_floats(tool.build("sisa", 16, 8, 0.02, 0), length) == sisa
    inner, state = 2 * width, 4
    mamba2 = inner * state + 3 * (inner + 2 * state)  # states; the last inputs of the convolution
    assert tool.state_floats(tool.build("mamba2", 16, state, 0.02, 0), length) == mamba2


def test_the_tool_trains_every_model_and_prints_rows(tool: ModuleType) -> None:
    command = [sys.executable, str(TOOL), "--pairs", "2", "4", "--steps", "2", "--init-stds", "0.02"]
    command += ["--learning-rates", "1e-3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows = json.loads(done.stdout)
    assert [row["model"] for row in rows] == list(tool.MODELS)
    for row in rows:
        assert row["steps"] == 2 and row["parameters"] > 0
        assert 0 <= row["2 pairs %"] <= 100 and 0 <= row["4 pairs %"] <= 100


def test_more_pairs_than_keys_are_refused() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--pairs", "65"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "1 to 64 pairs" in done.stderr
