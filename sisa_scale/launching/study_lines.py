"""A study as a list: one line for each run, `RECIPE key=value ...`, quoted as in a shell."""

import shlex
from pathlib import Path

from sisa_scale.errors import ConfigError, Problem


def read_study_lines(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return (recipe, overrides) of every line; empty lines and those that begin with # are skipped.

    Raises ConfigError for a missing file, an unbalanced quote, or no line at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.at(
            path, found=str(error), allowed="a text file with a run on each line", remedy="Check the path."
        ) from error
    runs, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            problems.append(Problem(f"{path}:{number}", str(error), "RECIPE key=value ...", "Balance the quotes."))
            continue
        if words:
            runs.append((words[0], tuple(words[1:])))
    if problems:
        raise ConfigError.many(problems)
    if not runs:
        raise ConfigError.at(path, found="no run", allowed="RECIPE key=value ... on a line", remedy="Add one.")
    return runs
