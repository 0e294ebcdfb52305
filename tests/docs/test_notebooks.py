"""The notebooks run from their first cell to their last, and show what they print."""

import pytest

from tests.docs.notebooks import code_cells, notebooks, read, run


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_cells_are_in_order_with_what_they_print(path):
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert bool(cell["outputs"]) == ("print(" in "".join(cell["source"]))
        for output in cell["outputs"]:
            assert output["output_type"] == "stream"
            assert "/tmp" not in "".join(output["text"])


@pytest.mark.long
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    printed = run(path)
    kept = [bool(cell["outputs"]) for cell in code_cells(read(path))]
    assert [bool(text) for text in printed] == kept
