"""A synthetic run directory, as a run of two attempts leaves it."""

import json
import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime.fromisoformat("2026-03-02T09:00:00+00:00")
STEP_TOKENS = 65_536


def score(task: str, variant: str, metric: str, value: float | None, unit: str, **rest: Any) -> dict[str, Any]:
    error = None if value is None or metric == "unigram_entropy" else value * 0.02
    row = {"task": task, "variant": variant, "metric": metric, "value": value, "standard_error": error}
    return row | {"num_items": 200, "unit": unit, "note": ""} | rest


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(
    path: Path, *, name: str = "sisa-152m", num_steps: int = 60, num_layers: int = 6, seed: int = 0, offset: float = 0.0
) -> Path:
    """Write a run of two attempts, resumed at two thirds; `num_layers` 0 leaves out the monitors."""
    draw = random.Random(seed)
    path.mkdir(parents=True)
    path.joinpath("config.yaml").write_text(f"name: {json.dumps(name)}\nmodel:\n  mixer: sisa\n  width: 768\n")
    provenance = {"num_parameters": 152_000_000, "versions": {"torch": "2.13"}, "hardware": ["H100", "H100"]}
    path.joinpath("provenance.json").write_text(json.dumps(provenance))
    if num_steps == 0:
        return path
    resume = num_steps * 2 // 3
    loss = lambda step: 3.1 + offset + 7.5 * math.exp(-12 * step / num_steps) + 1.2 * math.exp(-2 * step / num_steps)  # noqa: E731
    steps, monitors, evaluations = [], [], []
    for step in range(1, num_steps + 1):
        steps.append(
            {
                "step": step,
                "tokens": step * STEP_TOKENS,
                "loss": loss(step) + draw.gauss(0, 0.06),
                "learning_rate": 6e-4 * min(step / (num_steps / 20), 0.5 + 0.5 * math.cos(math.pi * step / num_steps)),
                "gradient_norm": 0.4 + 3 * math.exp(-20 * step / num_steps) + abs(draw.gauss(0, 0.05)),
                "tokens_per_second": 301_000 * (0.6 if draw.random() < 0.01 else draw.gauss(1, 0.01)),
                "step_seconds": 0.22,
                "data_wait_seconds": 0.001,
                "mfu": 0.41,
                "stream_digest": "ab",
                "attempt": 1 if step <= resume else 2,
                "time": (START + timedelta(seconds=step)).isoformat(),
            }
        )
        if num_layers and step % max(1, num_steps // 40) == 0:
            half_life = [8 * 1.5**layer * (1 + step / num_steps) for layer in range(num_layers)]
            heads = [
                [0.1 + 0.09 * layer * step / num_steps + 0.02 * head for head in range(6)]
                for layer in range(num_layers)
            ]
            growth = [1 + 4 * step / num_steps * (layer + 1) / num_layers for layer in range(num_layers)]
            shares = {
                "q": 0.05,
                "C": 0.1,
                "k": 0.05,
                "B": 0.1,
                "v": 0.1,
                "decay": 0.01,
                "phase": 0.4 * step / num_steps,
            }
            monitors.append(
                {
                    "step": step,
                    "half_life_tokens": half_life,
                    "lambda": heads,
                    "largest_content_logit": [3 * x**0.5 for x in growth],
                    "largest_importance_logit": [x**2 for x in growth],
                    "norm_c": growth,
                    "norm_b": [0.8 * x for x in growth],
                    "phase_change_radians": [0.1 * x for x in growth],
                    "gradient_shares": shares | {"MLP": 1 - sum(shares.values())},
                }
            )
        if step % max(1, num_steps // 6) == 0:
            heldout, share = loss(step) + 0.05, 100 * step / num_steps
            scores = [
                score("loss", "heldout", "loss", heldout, "nats/token"),
                score("loss", "heldout", "perplexity", math.exp(heldout), "per token"),
                score("loss", "heldout", "bits_per_byte", heldout / math.log(2) / 4.2, "bits/byte"),
                score("loss", "heldout", "unigram_entropy", 7.1, "nats/token"),
                score("lambada", "cloze-heldout", "accuracy", 0.2 * share - offset, "%", note="hand-made"),
                score("needle", "needle-random", "exact_match", 0.9 * share + 0.1, "%"),
                score("needle-paper", "needle-paper", "first_token", None, "%", num_items=0, note="skipped: too long"),
            ]
            evaluations.append({"step": step, "tokens": step * STEP_TOKENS, "scores": scores})
    write_lines(path / "metrics.jsonl", steps)
    write_lines(path / "evaluations.jsonl", evaluations)
    if num_layers:
        write_lines(path / "monitors.jsonl", monitors)
    middle, end = (START + timedelta(seconds=resume + 5)), START + timedelta(seconds=num_steps + 60)
    common = {"world_size": 8, "zero_stage": 1}
    first = {"attempt": 1, "started": START.isoformat(), "from_step": 0, "ended": middle.isoformat()}
    second = {"attempt": 2, "started": middle.isoformat(), "from_step": resume, "ended": end.isoformat()}
    attempts = [
        first | common | {"outcome": "interrupted", "reason": "preempted (SIGTERM)"},
        second | common | {"outcome": "finished", "reason": None},
    ]
    write_lines(path / "attempts.jsonl", attempts)
    return path
