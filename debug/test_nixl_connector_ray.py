#!/usr/bin/env python
"""Measure speed, transport and correctness of KV transfers from prefill to decode, by the NIXL calls of vLLM's connector.

    python debug/test_nixl_connector_ray.py --strategy spread --sweep --json out.json    (on a Ray cluster)
    python debug/test_nixl_connector_ray.py --local --model configs/models/gpt-oss-120b.yaml --tokens 5000

Every transfer is checked byte for byte, and measured beside what the same machine does without NIXL. `--local` needs
nixl, torch and numpy, neither Ray nor vLLM. docs/kv-transfer.md explains the output.
"""

import argparse
import json
import os
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pdbench import interrupts  # noqa: E402
from pdbench.cli import Parser, positive, variable, whole  # noqa: E402
from pdbench.files import write_atomically  # noqa: E402
from pdbench.network.ucx import VERBOSE_ENV, VERBOSE_WARNING  # noqa: E402
from pdbench.transfer.bench import Bench, Options  # noqa: E402
from pdbench.transfer.cache import VALUE_BYTES, Cache, check  # noqa: E402
from pdbench.transfer.rank import DECODE, PREFILL, TransferError  # noqa: E402
from pdbench.transfer.ranks import LocalRanks, RayRanks  # noqa: E402

BACKENDS = ("UCX", "LIBFABRIC")
# gpt-oss-120b's shape, in blocks of 16 tokens, which is vLLM's default on GPUs.
SHAPE = {"num_layers": 36, "kv_heads": 8, "head_dim": 64, "dtype": "bfloat16"}
COLUMNS = "{:>9} {:>8} {:>6} {:>8} {:>13} {:>20} {:>6}  {:<16} {}"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        prog="test_nixl_connector_ray.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_argument_group("where")
    place = where.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--strategy", choices=["pack", "spread"], help="prefill and decode on one node of a Ray cluster, or on two"
    )
    place.add_argument("--local", action="store_true", help="plain processes on this machine, without Ray")
    where.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or the one that runs here")
    where.add_argument("--memory", choices=["cpu", "cuda"], help="default: what the nodes have")
    how = parser.add_argument_group("how")
    how.add_argument("--backends", default="UCX", type=_backends, metavar="LIST", help="UCX (default), LIBFABRIC, or both")
    how.add_argument("--ucx-tls", metavar="LIST", help="UCX_TLS, for example tcp or cuda_ipc,cuda_copy,tcp")
    how.add_argument(
        "--env", action="append", default=[], type=variable, metavar="NAME=VALUE", help="variable of the ranks, repeatable"
    )
    how.add_argument("--num-threads", type=whole, default=0, help="NIXL's worker threads (default 0, as cpu.yaml; vLLM's is 4)")
    how.add_argument("--verbose", action="store_true", help="NIXL and UCX debug logs; distorts results")
    how.add_argument(
        "--timeout", type=positive, default=120, metavar="S", help="seconds that one transfer may take (default 120)"
    )
    shape = parser.add_argument_group("the cache (default: gpt-oss-120b's shape)")
    shape.add_argument("--model", metavar="FILE", help="configs/models/*.yaml: layers, heads, values, and the sliding window")
    for option in ("num-layers", "kv-heads", "head-dim"):
        shape.add_argument(f"--{option}", type=positive)
    shape.add_argument("--dtype", choices=list(VALUE_BYTES))
    shape.add_argument("--block-size", type=positive, default=16, help="tokens in a block (default 16)")
    shape.add_argument("--num-blocks", type=positive, help="blocks in each rank's cache (default 512, or what is transferred)")
    shape.add_argument("--prefill-tp", type=positive, default=1)
    shape.add_argument("--decode-tp", type=positive, default=1)
    what = parser.add_argument_group("the transfers")
    size = what.add_mutually_exclusive_group()
    size.add_argument("--blocks", type=positive, help="blocks of one prompt (default 256)")
    size.add_argument("--tokens", type=positive, help="tokens of one prompt, instead of blocks")
    size.add_argument("--sweep", action="store_true", help="from one block to the whole cache")
    what.add_argument("--random-blocks", action="store_true", help="source and destination blocks differ and are scattered")
    what.add_argument("--concurrent-transfers", type=positive, default=1, metavar="N", help="prompts in transfer at once")
    what.add_argument("--iterations", type=positive, default=10)
    what.add_argument("--warmup", type=whole, default=2)
    what.add_argument("--seed", type=whole, default=0)
    what.add_argument("--json", type=Path, metavar="FILE", help="write the cases to this file")
    return parser.parse_args(argv)


def _backends(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in BACKENDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(BACKENDS)}")
    return names


def read_cache(args: argparse.Namespace) -> tuple[Cache, list[int]]:
    """Return the cache's shape, and the sizes (blocks of a prompt) to transfer.

    Raises:
        ValueError: the shape cannot be, or the transfers do not fit it.
    """
    shape, sliding = dict(SHAPE), {}
    value_bytes = None
    if args.model:
        from pdbench.configs import load_model

        kv = load_model(args.model).kv
        shape |= {"num_layers": kv.layers, "kv_heads": kv.heads, "head_dim": kv.head_dim}
        sliding = {"sliding_layers": kv.sliding_layers, "sliding_window": kv.sliding_window}
        value_bytes = kv.value_bytes
    shape |= {name: getattr(args, name) for name in SHAPE if getattr(args, name) is not None}
    if args.dtype or value_bytes is None:
        value_bytes = VALUE_BYTES[shape["dtype"]]
    at_once = args.concurrent_transfers
    blocks = args.blocks or (-(-args.tokens // args.block_size) if args.tokens else 256)
    num_blocks = args.num_blocks or max(512, 0 if args.sweep else blocks * at_once)
    if sliding.get("sliding_layers", 0) > shape["num_layers"]:
        raise ValueError(
            f"--num-layers {shape['num_layers']} is less than the model's {sliding['sliding_layers']} sliding layers"
        )
    cache = Cache(
        shape["num_layers"], num_blocks, args.block_size, shape["kv_heads"], shape["head_dim"], value_bytes, **sliding
    )
    check(cache, args.prefill_tp, args.decode_tp)
    largest = num_blocks // at_once
    if args.sweep:
        sizes = [2**i for i in range(largest.bit_length()) if 2**i < largest] + [largest]
    else:
        sizes = [blocks]
    if not 0 < sizes[-1] <= largest:
        raise ValueError(f"{at_once} transfers of {sizes[-1]} blocks do not fit a cache of {num_blocks}: raise --num-blocks")
    return cache, sizes


def where(args: argparse.Namespace):
    """Return memory, hosts' addresses, what starts the ranks, and how many GPUs each rank's process sees.

    Raises:
        ValueError: the nodes do not fit.
        ConnectionError: there is no cluster.
    """
    if args.local:
        import torch

        gpus = torch.cuda.device_count()
        memory = args.memory or ("cuda" if gpus else "cpu")
        if memory == "cuda" and not gpus:
            raise ValueError("--memory cuda: PyTorch sees no GPU on this machine")
        return memory, ["127.0.0.1"], LocalRanks, max(1, gpus)
    from pdbench.layout import Layout, Pool
    from pdbench.nodes import cluster

    try:
        ray = cluster.connect(args.address)
    except ConnectionError as error:
        raise ConnectionError(f"{error}; to start one on this machine: python -m pdbench.local_cluster start") from None
    memory = args.memory or ("cuda" if ray.cluster_resources().get("GPU") else "cpu")
    unit = {"cuda": "GPU", "cpu": "CPU"}[memory]
    layout = Layout(prefill=Pool(1, args.prefill_tp), decode=Pool(1, args.decode_tp))
    placed = cluster.place(layout, f"pd-{args.strategy}", cluster.read_nodes(ray, unit), unit)
    nodes = {PREFILL: placed.prefill, DECODE: placed.decode}
    return memory, [node.ip for node in nodes.values()], lambda specs: RayRanks(specs, ray, nodes), 1


def environment(args: argparse.Namespace, hosts: list[str]) -> dict[str, str]:
    """Return environment variables of the ranks."""
    env = {"UCX_PROTO_INFO": "y"}  # UCX's own word on which transport it chose
    if all(host.startswith("127.") for host in hosts):
        env["UCX_NET_DEVICES"] = "lo"  # what stays on this machine is to be seen on its loopback only
    env |= {"UCX_TLS": args.ucx_tls} if args.ucx_tls else {}
    return env | (VERBOSE_ENV if args.verbose else {}) | dict(args.env)


def measure(args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Run all cases; returns those that ran, and a line for each backend that failed."""
    cache, sizes = read_cache(args)
    memory, hosts, start, devices = where(args)
    env = environment(args, hosts)
    placed = args.strategy or "local"
    print(f"{cache.layers} layers, {cache.heads} KV heads of {cache.head_dim}, blocks of {cache.block_size} tokens, "
          f"{cache.blocks} blocks; P TP{args.prefill_tp} -> D TP{args.decode_tp}, {placed} "
          f"({' -> '.join(hosts)}), {memory}")  # fmt: skip
    cases, failed = [], []
    for backend in args.backends:
        options = Options(cache, args.prefill_tp, args.decode_tp, backend, memory, args.iterations, args.warmup,
                          args.concurrent_transfers, args.random_blocks, args.seed)  # fmt: skip
        ranks = None
        try:
            ranks = start(options.specs(env, args.num_threads, args.timeout, devices))
            bench = Bench(ranks, options)
            print(f"{backend}: connected in {bench.connect_s * 1e3:.0f} ms; reading one block of one layer takes "
                  f"{bench.small_s * 1e6:.0f} us")  # fmt: skip
            print(COLUMNS.format("MB", "blocks", "ms", "GB/s", "p5-p95", "limit GB/s", "ratio", "transport", "data"))
            for blocks in sizes:
                cases.append(bench.run(blocks) | provenance(args, placed, hosts, env, cache))
                print(line(cases[-1]), flush=True)
        except TransferError as error:
            failed.append(f"{backend}: {error}")
        finally:
            if ranks:
                if args.verbose:
                    show_logs(ranks)
                ranks.close()
    return cases, failed


def provenance(args: argparse.Namespace, placed: str, hosts: list[str], env: dict, cache: Cache) -> dict:
    """Return what a reader needs to believe and repeat a case."""
    return {
        "placement": placed, "nodes": hosts, "environment": env, "num_threads": args.num_threads, "seed": args.seed,
        "tokens": args.tokens, "block_size": cache.block_size, "layers": cache.layers, "kv_heads": cache.heads,
        "head_dim": cache.head_dim, "value_bytes": cache.value_bytes, "num_blocks": cache.blocks, "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in ("nixl", "torch")},
        "command": shlex.join(["python", *sys.argv]), "time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }  # fmt: skip


def line(case: dict) -> str:
    """Return a case, for the terminal."""
    limit = f"{case['limit_gbps']:.2f} {case['limit']}" if case["limit_gbps"] else "not known"
    ratio = f"{case['ratio_to_limit']:.0%}" if case["ratio_to_limit"] else "-"
    data = "verified" if case["verified"] else (
        f"WRONG: {case['wrong_bytes']} bytes differ, {case['touched_bytes']} touched outside, "
        f"{case['notifications_missing']} notifications missing")  # fmt: skip
    return COLUMNS.format(
        f"{case['bytes'] / 1e6:.1f}", case["blocks"], f"{case['ms_median']:.1f}", f"{case['gbps_median']:.2f}",
        f"{case['gbps_p5']:.2f}-{case['gbps_p95']:.2f}", limit, ratio, case["transport"] or "UCX did not say", data,
    )  # fmt: skip


def show_logs(ranks) -> None:
    for name in ranks.specs:
        (lines,) = ranks.call([(name, "log", ())])
        print("\n".join(f"{name}| {text}" for text in lines), file=sys.stderr)


def main() -> int:
    args = parse_args()
    if args.verbose:
        print(f"warning: {VERBOSE_WARNING}", file=sys.stderr)
    try:
        cases, failed = measure(args)
    except (ValueError, ConnectionError) as error:
        print(f"test_nixl_connector_ray.py: error: {error}", file=sys.stderr)
        return 2
    if args.tokens and cases:
        size, milliseconds = cases[0]["bytes"] / args.concurrent_transfers, cases[0]["ms_median"]
        print(f"the KV cache of {args.tokens} tokens is {size / 1e6:.1f} MB and takes {milliseconds:.1f} ms")
    if args.json and cases:
        write_atomically(args.json, json.dumps(cases, indent=2) + "\n")
    for text in failed:
        print(f"test_nixl_connector_ray.py: error: {text}", file=sys.stderr)
    return 1 if failed or not all(case["verified"] for case in cases) else 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "test_nixl_connector_ray.py"))
