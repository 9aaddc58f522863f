"""Make result folders small enough to keep in a repository: times in whole microseconds, and no generated texts.

    python -m pdbench.read.trim bm_results/*_h200x2_120b_*

A level keeps the client's summary and every time of every request, in about a third of its bytes. No figure or interval
reads the texts; the commands that generate them again are in manifest.json. A folder is read before and after, and
stays as it is where one of its numbers would change by more than 0.1% plus, if it is in ms, a microsecond.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pdbench import interrupts
from pdbench.cli import Parser, note
from pdbench.files import first_line, write_atomically
from pdbench.read import foreign
from pdbench.read.level_file import ResultError
from pdbench.read.level_json import load_level
from pdbench.read.results import read_results, read_study

TIMES = ("ttfts", "itls", "start_times")
TOLERANCE = 1e-3


def trimmed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a level's content without texts, its TIMES (s) rounded to microseconds; the order of its keys stays."""
    return {key: _rounded(value) if key in TIMES else value for key, value in content.items() if key != "generated_texts"}


def _rounded(times: Any) -> Any:
    return [_rounded(each) for each in times] if isinstance(times, list) else round(times, 6)


def trim(folder: Path) -> tuple[int, int]:
    """Trim all levels of a result folder.

    Returns:
        Bytes of its levels before and after.

    Raises:
        ResultError: the folder cannot be read, or its numbers would not stay the same; it is left as it was.
    """
    study = read_study([folder])
    before, paths = study.table, [path for one in study.folders.values() for path in one.arm.levels.values()]
    if other := next((path for path in paths if path.parent != folder or foreign.is_read(path.name)), None):
        raise ResultError(f"{other}: is not the bench client's own: such a folder is not trimmed")
    texts = {path.name: json.dumps(trimmed(load_level(path))) for path in paths}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.resolve().name
        shutil.copytree(folder, copy)
        for name, text in texts.items():
            (copy / name).write_text(text)
        after = read_results([copy])
    numbers = before.select_dtypes("number").columns
    # Where requests decode in step the spread of their TPOT is a few microseconds.
    least = [1e-3 if name.endswith("_ms") else 0 for name in numbers]
    same = np.isclose(before[numbers], after[numbers], rtol=TOLERANCE, atol=least, equal_nan=True).all(axis=0)
    if not same.all():
        raise ResultError(f"{folder}: {numbers[~same][0]} would change by more than {TOLERANCE:.1%}: left as it is")
    size = sum(path.stat().st_size for path in paths)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return size, sum(map(len, texts.values()))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command's options."""
    parser = Parser(prog="trim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="result folders")
    return parser.parse_args(argv)


def main() -> int:
    """Trim the folders that the command line names; return the exit code."""
    args = parse_args()
    try:
        for folder in args.folders:
            before, after = trim(folder)
            print(f"trim: {folder}: {before / 1e6:.1f} MB, now {after / 1e6:.1f} MB")
    except (ValueError, OSError) as error:
        note(f"trim: error: {first_line(error)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "trim"))
