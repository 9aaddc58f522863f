"""The command `python -m pdbench.local_cluster`."""

import sys

from pdbench import interrupts
from pdbench.nodes.local_cluster import main

if __name__ == "__main__":
    sys.exit(interrupts.run(main, "local_cluster"))
