"""The command `python -m pdbench.gates`."""

import sys

from pdbench import interrupts
from pdbench.measure.gates import main

if __name__ == "__main__":
    sys.exit(interrupts.run(main, "gates"))
