"""The notebooks of examples/ run, and are stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["finetune", "octavize"])
def test_notebook_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}}).execute()
    assert any("text" in output or "data" in output for output in code[-1].outputs)
