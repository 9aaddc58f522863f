"""Result folders for the audit, and what it finds in them."""

from pdbench.analysis.audit import KINDS, audit
from pdbench.read.results import read_study

MIXED = "tiny_itl100_otl11_mixed_"
LEVELS = (4, 8, 16)


def writer(tmp_path, write_folder, level_content):
    """Return what writes a folder in which nothing is wrong: a seed of its own for each level, enough requests, warm."""
    number = iter(range(1000))

    def write(name, levels=LEVELS, manifest=None, prefix=MIXED, **more):
        files = {}
        for i, level in enumerate(levels):
            # Another duration in each file: two measurements are never equal.
            content = {"requests": 200, "duration": 2.0 + 0.001 * next(number), "date": f"20260101-00000{i}", "seed": str(i)}
            change = {key: value[i] if isinstance(value, list) else value for key, value in more.items()}
            files[f"conc{level}.json"] = level_content(level, **content | change)
        folder = write_folder(tmp_path, prefix + name, files)
        if manifest:
            manifest.write(folder)
        return folder

    return write


def found(*folders):
    """(kind, folder names) of all findings."""
    return [(f.kind, [name.rsplit("/", 1)[1] for name in f.folders]) for f in audit(read_study(folders, details=False))]


def seen(kind, *folders, details=False):
    """What was seen in the only finding of `kind`."""
    (one,) = (f for f in audit(read_study(folders, details=details)) if f.kind == kind)
    assert (one.why, one.fix) == KINDS[kind]
    return one.seen
