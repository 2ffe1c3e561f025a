"""What the jobs of a submission print to, and what of it is new."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sisa_scale.launching.submission import Submission


class Tail:
    """A file that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def read(self) -> list[str]:
        """Return the whole lines that are new."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            new = stream.read()
        whole = new.rfind(b"\n") + 1
        self.position += whole
        return new[:whole].decode(errors="replace").split("\n")[:-1]


def tails(submission: Submission) -> list[Tail]:
    """Return the files that the jobs print to: of every task, or of the only one that a note is about."""
    folder, num = Path(submission.folder), submission.settings["num_tasks"]
    if num == 1:
        return [Tail(folder / "output.log")]
    task = submission.settings.get("task")
    return [Tail(folder / f"output-{number}.log") for number in (range(num) if task is None else (task,))]


def new_lines(files: Sequence[Tail]) -> Iterator[str]:
    """Yield what is new, with the number of the task where there are several."""
    for tail in files:
        for line in tail.read():
            yield line if len(files) == 1 else f"[{tail.path.stem.removeprefix('output-')}] {line}"
