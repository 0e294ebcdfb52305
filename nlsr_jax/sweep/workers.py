"""Run the cells of a sweep that have no row yet, beside other processes that do the same."""

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
    """Run the cells whose rows are not there yet; those that another process has begun are waited for.

    Args:
      runner: runs one.
      cells: what is wanted.
      claimed: whether a cell, with its architecture named, is this process's to run.
      note: called before each with how many are done, how many there are, and the cell.
      waiting: called with how many cells other processes are at, before the first of them is waited for.
    """
    wanted = order_cells(map(runner.whole, cells))
    done = runner.store.rows()
    missing = [cell for cell in wanted if runner.name(cell) not in done and claimed(cell)]
    others = list(_run_free(runner, missing, note))
    if others:
        waiting(len(others))
    for cell in others:
        with runner.store.claims.claim(runner.name(cell)):
            if runner.name(cell) not in runner.store.rows():  # it has died
                runner.store.add(runner.run(cell))


def _run_free(
    runner: CellRunner, missing: Sequence[Cell], note: Callable[[int, int, Cell], None]
) -> Iterator[Cell]:
    """Run the cells that no other process is at or has done; yields those that one is at."""
    for number, cell in enumerate(missing):
        with runner.store.claims.claim(runner.name(cell), wait=False) as held:
            if not held:
                yield cell
            elif runner.name(cell) not in runner.store.rows():
                note(number, len(missing), cell)
                runner.store.add(runner.run(cell))
