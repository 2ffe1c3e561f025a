"""Commands parse, call and render: what they import says so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sisa_scale

PACKAGE = Path(sisa_scale.__file__).parent
COMMANDS = sorted((PACKAGE / "cli").rglob("*.py"))
OTHERS = sorted(path for path in PACKAGE.rglob("*.py") if path not in COMMANDS)
HEAVY = {"ray", "subprocess", "torch"}


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, also inside functions."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_command_imports_what_computes_or_starts_processes(path: Path) -> None:
    assert not [name for name in imported(path) if name.partition(".")[0] in HEAVY]


def test_nothing_else_imports_commands() -> None:
    assert len(OTHERS) > 100
    found = {str(path): name for path in OTHERS for name in imported(path) if f"{name}.".startswith("sisa_scale.cli.")}
    assert not found
