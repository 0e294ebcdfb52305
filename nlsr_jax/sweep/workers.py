"""Run the cells of a sweep that have no row yet, alongside other processes that do the same."""

from collections.abc import Callable, Iterator, Sequence

from nlsr_jax.sweep.cells import Cell
from nlsr_jax.sweep.runner import CellRunner, order_cells


def run_cells(
    runner: CellRunner,
    cells: Sequence[Cell],
    *,
    claimed: Callable[[Cell], bool] = lambda _: True,
    note: Callable[[int, int, Cell], None] = lambda done, count, cell: None,
    waiting: Callable[[int], None] = lambda count: None,
) -> None:
    """Run the cells without a row, and wait for those that another process is running.

    Args:
      runner: the cell runner.
      cells: the requested cells.
      claimed: returns whether a cell, with its architecture filled in, is assigned to this process.
      note: called before each cell with the number done, the total, and the cell.
      waiting: called with the number of cells running in other processes, before waiting for the first of them.
    """
    wanted = order_cells(map(runner.whole, cells))
    done = runner.store.rows()
    missing = [cell for cell in wanted if runner.name(cell) not in done and claimed(cell)]
    others = list(_run_free(runner, missing, note))
    if others:
        waiting(len(others))
    for cell in others:
        with runner.store.claims.claim(runner.name(cell)):
            if runner.name(cell) not in runner.store.rows():  # the other process died
                runner.store.add(runner.run(cell))


def _run_free(
    runner: CellRunner, missing: Sequence[Cell], note: Callable[[int, int, Cell], None]
) -> Iterator[Cell]:
    """Run the cells that no other process has claimed or done; yield those that one has claimed."""
    for number, cell in enumerate(missing):
        with runner.store.claims.claim(runner.name(cell), wait=False) as held:
            if not held:
                yield cell
            elif runner.name(cell) not in runner.store.rows():
                note(number, len(missing), cell)
                runner.store.add(runner.run(cell))
