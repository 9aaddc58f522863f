"""`vllm bench serve`, loaded once for a whole sweep: loading takes 10 s of CPU, more than a short level.

    python -m pdbench.bench_client LOG

Reads the arguments of one run per line, quoted as a shell quotes them, and prints its exit status with
what the client's main thread did while it measured: seconds on a core, waiting for one, and in all.
What the client itself prints goes to LOG, the latest run's only.
"""

import collections
import os
import shlex
import sys
import threading
import time
import traceback

SAMPLE_S = 0.2


class Clock:
    """Notes what the main thread has had of a core, so that the time of measuring can be cut out afterwards."""

    def __init__(self):
        self.samples = collections.deque(maxlen=100_000)
        self.sample()
        threading.Thread(target=self._run, daemon=True).start()

    def sample(self) -> None:
        # /proc/PID/schedstat: ns on a core, ns runnable but waiting (kernel: scheduler/sched-stats).
        with open("/proc/self/schedstat") as file:
            cpu, waited, _ = file.read().split()
        self.samples.append((time.monotonic(), int(cpu) / 1e9, int(waited) / 1e9))

    def _run(self) -> None:
        while True:
            time.sleep(SAMPLE_S)
            self.sample()

    def last(self, seconds: float) -> tuple[float, float, float]:
        """On a core, waiting, and wall seconds over about the last `seconds`."""
        self.sample()
        end = self.samples[-1]
        start = next((s for s in reversed(self.samples) if s[0] <= end[0] - seconds), self.samples[0])
        return end[1] - start[1], end[2] - start[2], end[0] - start[0]


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
    clock = Clock()
    for line in sys.stdin:
        os.ftruncate(log, 0)
        status, duration = 0, 0.0
        try:
            duration = bench(parser.parse_args(shlex.split(line)))["duration"]
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except Exception:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        print(status, *(f"{seconds:.3f}" for seconds in clock.last(duration)), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
