"""A table of one workload made by hand, for the tests of decisions."""

import math

import pandas as pd

PD = "p1xtp2-d1xtp2"
RATE = "input_throughput_per_node"
TWO_LEVELS = [(PD, 4, 8, 100, 1000), (PD, 8, 12, 300, 2000)]


def table(*rows, kind="concurrency"):
    """Rows of (layout, level, TPOT, TTFT, input tokens/s per node); requests have 100 tokens in, 11 out."""
    made = []
    for layout, level, tpot, ttft, rate in rows:
        row = {"arm": layout, "layout": layout, "level": level, "kind": kind}
        row |= {"serving": "ray", "accelerator": "GPU", "gpus": 4, "gpus_per_node": 8}
        row |= {"model": "tiny", "isl": 100, "osl": 11, "phase": "mixed", "median_tpot_ms": tpot, "median_ttft_ms": ttft}
        row |= {"input_throughput_per_node": rate, "output_throughput_per_node": 0.11 * rate}
        row |= {"total_throughput_per_node": 1.11 * rate, "request_throughput_per_node": rate / 100}
        made.append(
            row
            | {"request_throughput": rate / 200, "served_share": math.nan, "cap_reached": math.nan}
            | {"tokens_per_piece": math.nan, "block": 0, "machines": ""}
        )
    return pd.DataFrame(made)
