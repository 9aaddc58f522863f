"""`vllm bench serve`, loaded once for a whole sweep: loading takes 10 s of CPU, more than a short level.

    python -m pdbench.bench_client LOG

Reads the arguments of one run per line, quoted as a shell quotes them, and prints its exit status.
What the client itself prints goes to LOG, the latest run's only.
"""

import os
import shlex
import sys
import traceback


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # What the command `vllm bench serve` calls: https://docs.vllm.ai/en/latest/cli/bench/serve.html
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    for line in sys.stdin:
        os.ftruncate(log, 0)
        status = 0
        try:
            bench(parser.parse_args(shlex.split(line)))
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except Exception:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        print(status, file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
