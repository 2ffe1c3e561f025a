"""Messages that docs/troubleshooting.md quotes are those of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VALUE = "\0"  # where a message has a name or a number


def messages_of(source: ast.AST) -> Iterator[str]:
    """Yield every text of a module; values of an f-string are VALUE."""
    for node in ast.walk(source):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted() -> list[str]:
    """Return the messages in the first column of the tables: code of several words."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell) if " " in code]


@pytest.fixture(scope="module")
def texts() -> str:
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "sisa_scale").rglob("*.py")]
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "cluster").rglob("*.j2")]
    return "\n".join([*(text.replace("\n", " ") for module in modules for text in messages_of(module)), *scripts])


def occurs(message: str, texts: str) -> bool:
    return re.search(".+?".join(re.escape(part) for part in message.split("...") if part), texts) is not None


def test_messages_are_quoted() -> None:
    assert len(quoted()) > 15


@pytest.mark.parametrize("message", quoted())
def test_the_package_says_so(message: str, texts: str) -> None:
    assert occurs(message, texts)


def test_what_nobody_says_is_found(texts: str) -> None:
    assert not occurs("the run directory holds a run", texts)
    assert not occurs("the checkpoint of step ... has vanished", texts)
