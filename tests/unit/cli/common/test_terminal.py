"""Work goes on when nobody reads any more."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from sisa_scale.cli.common.console import announce
for number in range(2000):
    announce(f"line {number} " + "x" * 100)
Path(sys.argv[1]).write_text("done")
"""


def test_a_reader_that_leaves_ends_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "done")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith(b"x\n")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
    assert (tmp_path / "done").exists()
