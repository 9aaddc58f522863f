"""Add levels that were measured elsewhere to the same folders here: blocks of several machines become one result.

    python -m pdbench.measure.gather other/bm_results/*_h200x2_120b_*

All folders are checked before anything is written. A folder is refused where its levels would not be measured into
the one here either (another layout, other versions, accelerators or engine arguments), or where both hold a level.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from pdbench import interrupts
from pdbench.cli import Parser
from pdbench.files import first_line, write_atomically
from pdbench.manifest import FILENAME, LevelRecord, Manifest, differences, kept_launches
from pdbench.read.held import held_words
from pdbench.read.trace import ENDING, trace_path
from pdbench.workload import SHIFT, Level

# Of a level: what a controller saw and did while it was measured, and when requests were sent where load shifts.
BESIDE = (".ticks.jsonl", ENDING)


class GatherError(ValueError):
    """A folder cannot be added; one line."""


@dataclass(frozen=True)
class Addition:
    """Holds what one folder adds: files to be copied, then the manifest that names them."""

    source: Path
    target: Path
    records: list[LevelRecord]
    manifest: Manifest

    def write(self) -> None:
        """Copy the levels with what lies beside them, then write the manifest: a level without its record is no result."""
        for record in self.records:
            for name in [f"{record.level}.json", *(f"{record.level}{ending}" for ending in BESIDE)]:
                if (self.source / name).is_file():
                    write_atomically(self.target / name, (self.source / name).read_bytes())
        self.manifest.write(self.target)


def addition(source: Path, results: Path) -> Addition:
    """Plan what a result folder adds to the folder of its name in `results`.

    Raises:
        GatherError: they must not be put together, or the source lacks its manifest or the file of a level.
        ValueError: a manifest cannot be read.
    """
    target = results / source.resolve().name
    if source.resolve() == target.resolve():
        raise GatherError(f"{source} is the folder of that name in {results} itself: name one of another machine")
    if not (source / FILENAME).is_file():
        if source.is_dir() and (held := held_words(source)):
            raise GatherError(f"{source} {held}")
        raise GatherError(f"{source}: no {FILENAME}: name a result folder that run_bm.sh wrote")
    new = Manifest.read(source)
    measured = [record for record in new.levels if record.ok]
    if lost := [record.level for record in measured if not (source / f"{record.level}.json").is_file()]:
        raise GatherError(f"{source}: {lost[0]}.json is missing, which its manifest names")
    for record in measured:
        level = Level.from_filename(f"{record.level}.json")
        if level.kind == SHIFT and not (trace := trace_path(source / level.filename)).is_file():
            raise GatherError(f"{trace} is missing, without which {record.level}.json cannot be read")
    if not (target / FILENAME).exists():
        return Addition(source, target, measured, new.model_copy(update={"levels": measured}))
    old = Manifest.read(target)
    if different := differences(old.identity, new.identity):
        raise GatherError(f"{target} holds results of {different[0]} in {source}")
    here = {record.level: record for record in old.levels if record.ok}
    for record in measured:
        if (known := here.get(record.level)) and known.started != record.started:
            raise GatherError(f"{target} and {source} both hold {record.level}, measured {known.started} and {record.started}: "
                              "measure one of them as another block")  # fmt: skip
    added = [record for record in measured if record.level not in here]
    names = {record.level for record in added}
    manifest = old.model_copy(update={
        "levels": [*(record for record in old.levels if record.level not in names), *added],
        "earlier": kept_launches([old, new], [*old.levels, *added], old.deployment),
        "commands": [*old.commands, *(command for command in new.commands if command not in old.commands)],
    })  # fmt: skip
    return Addition(source, target, added, manifest)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command's options."""
    parser = Parser(prog="gather", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="result folders of another machine")
    parser.add_argument("--results-dir", type=Path, default=Path("bm_results"), metavar="DIR", help="default: bm_results")
    return parser.parse_args(argv)


def main() -> int:
    """Add the folders that the command line names; return the exit code."""
    args = parse_args()
    try:
        names = [folder.resolve().name for folder in args.folders]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise GatherError(f"{twice} is named twice: add one after the other")
        additions = [addition(folder, args.results_dir) for folder in args.folders]
        for one in additions:
            one.write()
            print(f"gather: {one.target}: {len(one.records)} levels added")
    except (ValueError, OSError) as error:
        print(f"gather: error: {first_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "gather"))
