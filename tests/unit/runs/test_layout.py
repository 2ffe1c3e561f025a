"""No module outside `runs/` names a file of a run directory."""

import ast
from pathlib import Path

import sisa_scale
from sisa_scale.runs import layout

PACKAGE = Path(sisa_scale.__file__).parent
NAMES = {value for name, value in vars(layout).items() if name.isupper()}
# Names that mean other things, too, are looked for only where they are joined to a path.
PLAIN = {name for name in NAMES if "." not in name and name != layout.WANDB_ID}
SHARED = {layout.REPORT}  # studies and tables of runs have reports of the same name
OTHERS = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "runs" not in path.parents)


def named_files(source: str) -> list[tuple[int, str]]:
    """Return (line, name) where a program names a file of a run: as a string, a part of one, or joined by `/`."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not set(node.value) & set(" \n"):
            parts = set(node.value.split("/"))
            found += [(node.lineno, name) for name in parts & (NAMES - PLAIN - SHARED)]
            found += [(node.lineno, name) for name in parts & PLAIN if "/" in node.value]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            found += [(node.lineno, name) for name in PLAIN if name == node.right.value]
    return found


def test_files_are_found() -> None:
    assert named_files('x = p / "metrics.jsonl"') == [(1, "metrics.jsonl")]
    assert named_files('x = f"{p}/config.yaml"') == [(1, "config.yaml")]
    assert named_files('x = p / "stop"') == [(1, "stop")]
    assert named_files('x = "checkpoints/step_1"') == [(1, "checkpoints")]
    assert named_files('"""Reads metrics.jsonl."""\nx = "stop"') == []


def test_only_this_room_names_the_files_of_a_run() -> None:
    named = {str(path.relative_to(PACKAGE)): named_files(path.read_text()) for path in OTHERS}
    assert {path: found for path, found in named.items() if found} == {}


def test_every_file_is_in_the_list() -> None:
    assert layout.__doc__ is not None
    listed = [line.split()[0].rstrip("/") for line in layout.__doc__.splitlines()[2:] if line.strip()]
    assert sorted(listed) == sorted(NAMES)


def test_a_directory_with_a_recipe_holds_a_run(tmp_path: Path) -> None:
    assert not layout.holds_run(tmp_path)
    layout.config_path(tmp_path).touch()
    assert layout.holds_run(tmp_path)
