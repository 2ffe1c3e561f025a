import json
from pathlib import Path

import pytest
from run_lines import step_row

from sisa_scale.cli.common.console import RunProgress
from sisa_scale.config.batches import GlobalBatches, RampStage
from sisa_scale.config.duration import Duration
from sisa_scale.files import write_text

TOTAL = 9
BATCHES = GlobalBatches(1, 8)


def line(loss: float, step: int = TOTAL, mfu: float | None = None) -> str:
    row = step_row(step, loss=loss, tokens_per_second=1234.5, mfu=mfu, step_seconds=2.0)
    return json.dumps(row.to_json()) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_growing_file_is_followed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(path.parent, BATCHES, TOTAL)
    progress.update()  # no file yet
    path.write_text("")
    progress.update()
    path.write_text(line(4.0, step=TOTAL - 4))
    progress.update()
    assert capsys.readouterr().out == "step 5/9  loss 4.0000  1,234 tok/s  eta 8 s\n"
    with path.open("a") as stream:
        stream.write(line(3.0) + line(2.0, mfu=0.5) + line(1.0)[:20])
    progress.update()
    assert capsys.readouterr().out == "step 9/9  loss 2.0000  1,234 tok/s  MFU 50.0%  eta 0 s\n"
    progress.update()
    assert capsys.readouterr().out == ""
    with path.open("a") as stream:
        stream.write(line(1.0)[20:])
    progress.close()
    assert "loss 1.0000" in capsys.readouterr().out


def test_what_is_left_of_a_ramp_is_counted_in_tokens(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches = GlobalBatches(1, 24, [RampStage(Duration(7, "steps"), 8)])
    progress = RunProgress(path.parent, batches, TOTAL)
    path.write_text(line(4.0, step=TOTAL - 4))  # 2 s for 8 tokens; 2 steps of 8 and 2 of 24 are left
    progress.update()
    assert capsys.readouterr().out.endswith("eta 16 s\n")


def test_a_rewritten_file_is_read_again(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(path.parent, BATCHES, TOTAL)
    write_text(path, line(4.0) + line(3.0) + line(2.0)[:20])
    progress.update()
    assert "loss 3.0000" in capsys.readouterr().out
    write_text(path, line(5.0))
    progress.update()
    assert "loss 5.0000" in capsys.readouterr().out
