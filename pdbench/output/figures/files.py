"""Write figures to disk: vector (.pdf, .svg) or .png, whole or not at all."""

import os
import tempfile
import warnings
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from pdbench.read.level_file import ResultError


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write the figure (format by the name's ending), whole or not at all.

    Raises:
        ResultError: the ending is no format that matplotlib writes, or the folder cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file, matplotlib.rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of a name in another script, which it would print as it is
            figure.savefig(file, format=path.suffix[1:], dpi=dpi)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, (OSError, ValueError)):
            raise ResultError(f"{path}: {getattr(error, 'strerror', error)}") from error
        raise
