import dataclasses
import re

import pytest

from sisa_scale.cli.common.evaluate_paper import print_beside_paper
from sisa_scale.evaluation.score import accuracy_score
from sisa_scale.planning.twins import load_recipe

SCORES = [
    accuracy_score("lambada", "lambada-openai", "accuracy", [True] * 87 + [False] * 413),
    accuracy_score("winogrande", "winogrande", "accuracy_per_token", [True, False]),
]


def test_scores_stand_above_the_rows_of_the_same_size(capsys: pytest.CaptureFixture[str]) -> None:
    print_beside_paper("mine", load_recipe("sisa/152m-ds16").config.model, SCORES)
    said = capsys.readouterr().out
    assert re.search(r"mine .*│ 17\.4 ± 1\.7 │ 50\.0 ± 35\.4", said)
    assert re.search(r"sisa d_s 16 .*│ 17\.3 ± 0\.5 │ 52\.5 ± 1\.4", said)
    assert re.search(r"transformer .*│ 13\.9 ± 0\.5", said)
    assert "needle" not in said.partition("┡")[0]
    assert "369" not in said.partition("└")[0]


def test_the_cloze_set_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    cloze = dataclasses.replace(SCORES[0], variant="cloze-heldout")
    print_beside_paper("mine", load_recipe("sisa/152m-ds16").config.model, [cloze])
    assert capsys.readouterr().out == ""


def test_another_size_has_nothing_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_beside_paper("mine", load_recipe("quickstart").config.model, SCORES)
    assert capsys.readouterr().out == ""
