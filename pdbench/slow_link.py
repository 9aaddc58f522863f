"""The command `python -m pdbench.slow_link`."""

import sys

from pdbench import interrupts
from pdbench.network.slow_link import main

if __name__ == "__main__":
    sys.exit(interrupts.run(main, "slow_link"))
