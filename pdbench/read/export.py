"""Write the tidy table to a file, for other tools."""

import json
from pathlib import Path

import pandas as pd

from pdbench.files import write_atomically
from pdbench.read.level_file import ResultError


def export(table: pd.DataFrame, path: Path) -> None:
    """Write the table of `read_results` as .csv, .json (a list of objects) or .parquet, atomically.

    Numbers keep all their digits; what is not known is empty in CSV and null in JSON. Parquet needs pyarrow.

    Raises:
        ResultError: the file cannot be written.
    """
    if path.suffix == ".parquet":
        content = table.to_parquet(None, index=False)
    elif path.suffix == ".json":
        known = table.astype(object).where(table.notna(), None)
        content = json.dumps(known.to_dict("records"), indent=1) + "\n"
    else:
        content = table.to_csv(index=False)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
