import json
from collections import Counter
from pathlib import Path

import pytest

from sisa_scale.config.loading.load import dump_yaml
from sisa_scale.planning.twins import load_recipe
from sisa_scale.runs.files import Run, read_run
from sisa_scale.studies.results.published import NOTES, ends, notes_of, put_beside, read_published


def run(directory: Path, recipe: str, scores: dict[int, dict[str, float]]) -> Run:
    directory.mkdir()
    (directory / "config.yaml").write_text(dump_yaml(load_recipe(recipe).config))
    places = {"lambada": ("lambada-openai", "accuracy"), "needle-paper": ("needle-paper", "first_token")}
    lines = [
        {
            "step": step,
            "tokens": step * 524288,
            "scores": [
                {"task": task, "variant": places[task][0], "metric": places[task][1], "unit": "%", "num_items": 200,
                 "value": value, "standard_error": 1.0, "note": ""}
                for task, value in values.items()
            ],
        }
        for step, values in scores.items()
    ]  # fmt: skip
    (directory / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(directory)


def test_every_number_stands_once_and_every_note_has_words() -> None:
    published = read_published()
    keys = Counter((r.size, r.model, r.variant, r.d_s, r.step, r.metric, r.length_tokens) for r in published)
    assert max(keys.values()) == 1
    assert {note for row in published for note in row.notes} <= NOTES.keys()
    assert all(0 <= row.percent <= 100 for row in published)
    assert {row.size for row in published} == {"50m", "152m", "369m"}


@pytest.mark.parametrize(
    ("size", "model", "variant", "d_s", "step", "metric", "percent"),
    [
        ("152m", "transformer", "", None, 5000, "lambada", 7.22),
        ("152m", "sisa", "", 16, None, "lambada", 17.3),
        ("152m", "mamba3", "official kernel", None, None, "lambada", 17.4),
        ("50m", "mamba3", "", None, 9536, "needle", 63.5),
        ("369m", "transformer", "", None, 9536, "lambada", 15.43),
    ],
)
def test_published_numbers(
    size: str, model: str, variant: str, d_s: int | None, step: int | None, metric: str, percent: float
) -> None:
    wanted = (size, model, variant, d_s, step, metric, None)
    (row,) = [r for r in read_published() if (r.size, r.model, r.variant, r.d_s, r.step, r.metric, r.length_tokens)
              == wanted]  # fmt: skip
    assert row.percent == pytest.approx(percent, abs=0.006)


def test_sampling_errors_are_those_of_the_number_of_items() -> None:
    rows = {(r.size, r.model, r.d_s, r.step, r.metric): r for r in read_published() if not r.variant}
    lambada = rows["50m", "transformer", None, 9536, "lambada"].standard_error
    assert lambada == pytest.approx(0.475, abs=0.005)  # sqrt(0.134 x 0.866 / 5153)
    all_right = rows["50m", "transformer", None, 9536, "needle"].standard_error
    assert all_right is not None
    assert all_right > 0  # 200 of 200 is no certainty


def test_missing_runs_are_missing() -> None:
    rows = put_beside(ends(read_published()), [], by_step=False)
    assert rows
    assert all(row.run is None and row.ours is None for row in rows)


def test_our_run_stands_beside_its_twin_and_no_other(tmp_path: Path) -> None:
    ours = run(
        tmp_path / "a", "paper/sisa/50m-ds16", {1000: {"lambada": 9.0}, 9536: {"lambada": 18.5, "needle-paper": 99.0}}
    )
    rows = put_beside(ends(read_published()), [ours], by_step=False)
    found = {(row.published.size, row.published.model, row.published.d_s, row.published.metric): row
             for row in rows if row.ours is not None}  # fmt: skip
    assert found.keys() == {("50m", "sisa", 16, "lambada"), ("50m", "sisa", 16, "needle")}
    row = found["50m", "sisa", 16, "lambada"]
    assert (row.ours, row.ours_standard_error, row.ours_step, row.run) == (18.5, 1.0, 9536, "paper-sisa-50m-ds16")
    stepwise = put_beside(read_published(), [ours], by_step=True)
    at_1000 = [row for row in stepwise if row.ours is not None and row.published.step == 1000]
    assert [row.ours for row in at_1000 if row.published.metric == "lambada"] in ([], [9.0])
    at_7000 = [row for row in stepwise if row.published.step == 7000 and row.published.d_s == 16]
    assert at_7000
    assert all(row.ours is None for row in at_7000)


@pytest.mark.parametrize("recipe", ["sisa/50m-ds16", "transformer/50m"])
def test_a_normalized_model_is_none_of_the_papers(tmp_path: Path, recipe: str) -> None:
    ours = run(tmp_path / "a", recipe, {9536: {"lambada": 18.5}})
    assert all(row.run is None for row in put_beside(read_published(), [ours], by_step=False))


def test_cloze_is_not_lambada(tmp_path: Path) -> None:
    ours = run(tmp_path / "a", "paper/transformer/50m", {9536: {"lambada": 50.0}})
    text = (tmp_path / "a" / "evaluations.jsonl").read_text().replace("lambada-openai", "cloze-heldout")
    (tmp_path / "a" / "evaluations.jsonl").write_text(text)
    rows = put_beside(ends(read_published()), [read_run(ours.path)], by_step=False)
    assert all(row.ours is None for row in rows)
    assert any(row.run == "paper-transformer-50m" for row in rows)


def test_footnotes_are_those_of_the_rows() -> None:
    published = read_published()
    notes = notes_of(row for row in published if row.size == "50m" and row.metric == "lambada")
    assert "lambada-text" in notes
    assert "which-mamba3" in notes
    assert "disturbed" not in notes
    assert "needle-easy" not in notes
