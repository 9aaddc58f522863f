"""The command `python -m pdbench.shape`."""

import sys

from pdbench import interrupts
from pdbench.model.shape import main

if __name__ == "__main__":
    sys.exit(interrupts.run(main, "python -m pdbench.shape"))
