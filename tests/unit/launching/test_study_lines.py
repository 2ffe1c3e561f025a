from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.launching.study_lines import read_study_lines


def test_study_lines_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    path: Path = tmp_path / "study.txt"
    path.write_text("# a study\n\nquickstart 'name=a b' seed=1  # first\nquickstart\n")
    assert read_study_lines(path) == [("quickstart", ("name=a b", "seed=1")), ("quickstart", ())]
    path.write_text("quickstart 'open\n")
    with pytest.raises(ConfigError, match=r"study.txt:1"):
        read_study_lines(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="no run"):
        read_study_lines(path)
