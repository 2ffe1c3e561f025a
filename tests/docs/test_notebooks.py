"""The notebooks run from the first cell to the last."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
GOLDEN = Path(__file__).parents[1] / "golden" / "run_0_1"


@pytest.mark.parametrize("name", ["open_a_run", "fit_a_law"])
def test_notebook_runs(name: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "run", tmp_path / "runs" / "quickstart")
    shutil.copy(NOTEBOOKS / "gemstones.csv", tmp_path)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # what is shipped has no outputs
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == {"open_a_run": 3, "fit_a_law": 2}[name]
    printed = "".join(output.get("text", "") for output in shown)
    assert {"open_a_run": "attempts", "fit_a_law": "alpha 0.3004"}[name] in printed
