"""Print grids of cells in a terminal or a pipe."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill

from rich.cells import cell_len

from pdbench.cli import visible

PROSE_WIDTH = 36


def show(headers: Sequence[str], lines: Iterable[Sequence[str]], prose: int | None = None) -> None:
    """Print a table as wide as it is: a number cut off to fit a narrow terminal or a pipe would be a wrong number.

    rich's own tables measure every cell several times: that is most of the time where there are thousands of rows.

    Args:
        prose: the column that may break over lines, and begins at the left as the first one does.
    """
    lines = [[visible(cell) for cell in line] for line in lines]
    rows = [
        [fill(cell, PROSE_WIDTH, break_on_hyphens=False) if i == prose else cell for i, cell in enumerate(line)]
        for line in lines
    ]
    columns = [[cell.split("\n") for cell in column] for column in zip(headers, *rows, strict=True)]
    laid_out = [_column(cells, left=i in (0, prose)) for i, cells in enumerate(columns)]
    head, *body = ([f" {'  '.join(parts)}".rstrip() for parts in zip(*row, strict=True)] for row in _rows(laid_out))
    rule = "─" * (sum(cell_len(column[0][0]) + 2 for column in laid_out) - 1)
    print("", *head, f" {rule}", *(line for row in body for line in row), "", sep="\n")


def _column(cells: Sequence[list[str]], left: bool) -> list[list[str]]:
    """Lines of a column's cells, all of the same width."""
    width = max(cell_len(line) for cell in cells for line in cell)
    pads = [[" " * (width - cell_len(line)) for line in cell] for cell in cells]
    return [
        [line + pad if left else pad + line for line, pad in zip(*both, strict=True)] for both in zip(cells, pads, strict=True)
    ]


def _rows(columns: Sequence[list[list[str]]]) -> Iterator[list[list[str]]]:
    """Rows of cells with equally many lines: those of headings are filled up above, others below."""
    for place, row in enumerate(zip(*columns, strict=True)):
        high = max(map(len, row))
        blanks = [[" " * cell_len(cell[0])] * (high - len(cell)) for cell in row]
        yield [cell + blank if place else blank + cell for cell, blank in zip(row, blanks, strict=True)]
