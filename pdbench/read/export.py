"""Write the tidy table to a file, for other tools."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pdbench.cli import visible
from pdbench.files import write_atomically
from pdbench.read.level_file import ResultError
from pdbench.read.results import TEXT

# What a spreadsheet takes a cell for a formula by, also in full width.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def export(table: pd.DataFrame, path: Path) -> None:
    """Write the table of `read_results` as .csv, .json (a list of objects) or .parquet, atomically.

    Numbers keep all their digits; what is not known is empty in CSV and null in JSON. Parquet needs pyarrow.
    Text in CSV and Parquet has its control characters as escapes. In CSV an apostrophe goes before text that a spreadsheet
    would take for a formula, as OWASP has it (https://owasp.org/www-community/attacks/CSV_Injection).

    Raises:
        ResultError: the file cannot be written.
    """
    if path.suffix == ".parquet":
        content = _with_text(table, visible).to_parquet(None, index=False)
    elif path.suffix == ".json":
        known = table.astype(object).where(table.notna(), None)
        content = json.dumps(known.to_dict("records"), indent=1) + "\n"
    else:
        content = _with_text(table, _no_formula).to_csv(index=False)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error


def _with_text(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(change) for name in TEXT if name in table})


def _no_formula(text: str) -> str:
    return ("'" if text.startswith(FORMULA) else "") + visible(text)
