"""The command `python -m pdbench.shape`."""

import sys
from pathlib import Path

from pdbench import interrupts
from pdbench.cli import Parser
from pdbench.configs import load_model
from pdbench.model.model_folder import ensure_model


def main() -> int:
    """Make what the file on the command line describes, now instead of at the first launch; return the exit code."""
    parser = Parser(prog="python -m pdbench.shape", description="Make a gpt-oss with the hub's shape and random weights.")
    parser.add_argument("file", metavar="FILE", help="configs/models/*-shape.yaml")
    args = parser.parse_args()
    try:
        model = load_model(args.file)
        if not model.made:
            raise ValueError(f"{args.file}: its weights come from {model.source}: there is nothing to make")
        print(f"{model.model_id}: {ensure_model(Path(model.source), model.made)} in {model.source}")
    except ValueError as error:
        print(f"python -m pdbench.shape: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "python -m pdbench.shape"))
