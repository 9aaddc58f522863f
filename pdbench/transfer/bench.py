"""Time transfers of growing size between prefill and decode ranks, each checked, and each beside the machine's limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pdbench.network.ucx_log import Read, read_tables, transports_of
from pdbench.transfer import limits
from pdbench.transfer.cache import Cache, Request, pieces, requests
from pdbench.transfer.rank import DECODE, PREFILL, Spec

# All ranks that read begin at the same moment, after the slowest call has arrived.
LEAD_S = 0.02


@dataclass(frozen=True)
class Options:
    """What a benchmark transfers, how often, and in which way.

    Attributes:
        concurrent: prompts whose caches are under way at once.
        is_random: source and destination blocks differ and are scattered.
    """

    cache: Cache
    prefill_tp: int = 1
    decode_tp: int = 1
    backend: str = "UCX"
    memory: str = "cpu"
    iterations: int = 10
    warmup: int = 2
    concurrent: int = 1
    is_random: bool = False
    seed: int = 0

    def specs(self, env: dict[str, str], num_threads: int, timeout: float, devices: int = 1) -> list[Spec]:
        """Return the ranks that it needs, prefill first.

        Args:
            devices: GPUs that each rank's process sees; ranks take one after the other.
        """
        sides = [(PREFILL, rank, self.prefill_tp) for rank in range(self.prefill_tp)]
        sides += [(DECODE, rank, self.decode_tp) for rank in range(self.decode_tp)]
        more = {"memory": self.memory, "backend": self.backend, "num_threads": num_threads, "env": env, "timeout": timeout}
        return [Spec(*side, self.cache, device=number % devices, **more) for number, side in enumerate(sides)]


class Bench:
    """Connected ranks, ready to transfer."""

    def __init__(self, ranks, options: Options, read_pieces: Callable = pieces):
        """Connect decode to prefill, and fill both sides with patterns of their own.

        Args:
            ranks: `LocalRanks` or `RayRanks` of the options' specs.
            read_pieces: which bytes a decode rank reads, as `cache.pieces`.
        """
        self.ranks, self.options = ranks, options
        o = options
        self.prefill = [f"{PREFILL}{i}" for i in range(o.prefill_tp)]
        self.decode = [f"{DECODE}{i}" for i in range(o.decode_tp)]
        described = ranks.call([(name, "describe", ()) for name in self.prefill])
        self.pieces = [read_pieces(o.cache, o.prefill_tp, o.decode_tp, i) for i in range(o.decode_tp)]
        calls = [(name, "connect", (described, o.prefill_tp, some)) for name, some in zip(self.decode, self.pieces)]
        self.connect_s = max(ranks.call(calls))
        self.canary, self.generation = 2 * o.seed, 2 * o.seed + 1
        ranks.call([(n, "fill", (self.generation,)) for n in self.prefill] + [(n, "fill", (self.canary,)) for n in self.decode])
        self.small_s = max(ranks.call([(name, "small_read", ()) for name in self.decode]))
        ranks.call([(name, "fill", (self.canary,)) for name in self.decode])

    def run(self, blocks: int) -> dict:
        """Transfer prompts of `blocks` blocks, report speed and correctness; returns what `--json` has of a case.

        Raises:
            TransferError: a rank fails.
        """
        o, rounds = self.options, []
        for number in range(o.warmup + o.iterations):
            some = requests(o.cache, blocks, o.concurrent, o.is_random, o.seed + number)
            rounds.append(self._transfer(some, f"{blocks}-{number}"))
            if not number:  # UCX has chosen by now
                bound = self._bound(rounds[0])
            rounds[-1]["limit_s"] = self._limit(bound["limit"], o.concurrent * o.cache.transfer_bytes(blocks))
        touched = sum(self.ranks.call([(name, "touched_bytes", (self.canary,)) for name in self.decode]))
        return self._case(blocks, rounds, bound, touched)

    def _transfer(self, some: list[Request], name: str) -> dict:
        """One transfer, with what is wrong of it; the destination is as before afterwards."""
        start_at = time.time() + LEAD_S
        read = self.ranks.call([(rank, "read", (some, start_at, name)) for rank in self.decode])
        sources = [piece.source for pieces in self.pieces for piece in pieces]
        sent = {rank: sources.count(i) * len(some) for i, rank in enumerate(self.prefill)}
        heard = self.ranks.call([(rank, "notified", (name, count)) for rank, count in sent.items()])
        wrong = sum(self.ranks.call([(rank, "wrong_bytes", (some, self.generation)) for rank in self.decode]))
        self.ranks.call([(rank, "fill", (self.canary, some)) for rank in self.decode])
        return {
            "seconds": max(r["seconds"] for r in read), "post_seconds": max(r["post_seconds"] for r in read),
            "descriptors": sum(r["descriptors"] for r in read), "telemetry": [t for r in read for t in r["telemetry"]],
            "wrong": wrong, "unheard": sum(sent.values()) - sum(heard),
        }  # fmt: skip

    def _bound(self, first: dict) -> dict:
        """Which transport carries these transfers, in UCX's words, and which limit of the machine holds for it."""
        size = np.mean([t["bytes"] / max(1, t["descriptors"]) for t in first["telemetry"]])
        names, emulated = transports_of(self.reads(), size), {name for read in self.reads() for name in read.emulated}
        shown = [f"{name} (RDMA by name, emulated in fact)" if name in emulated else name for name in names]
        return {"transports": names, "shown": shown, "limit": limits.bound_of(names)}

    def reads(self) -> list[Read]:
        """Return what UCX has said in the decode ranks."""
        return [read for log in self.ranks.call([(name, "log", ()) for name in self.decode]) for read in read_tables(log)]

    def _limit(self, kind: str | None, size: int) -> float | None:
        """Seconds that the machine needs for `size` bytes without NIXL, in as many processes; None if it is not measured."""
        share = size // len(self.decode)
        if kind in ("memory copy", "device copy"):
            return max(self.ranks.call([(name, "copy_seconds", (share,)) for name in self.decode]))
        if kind != "TCP stream":
            return None
        host = self.ranks.hosts[PREFILL]
        # One stream for each of the smaller side's ranks: every rank is one end of at most one.
        pairs = list(zip(self.prefill, self.decode))
        ports = self.ranks.call([(source, "listen", (host,)) for source, _ in pairs])
        share = size // len(pairs)
        sending = [(source, "stream", (share,)) for source, _ in pairs]
        receiving = [(name, "receive_seconds", (host, port, share)) for (_, name), port in zip(pairs, ports)]
        return max(self.ranks.call(sending + receiving)[len(pairs) :])

    def _case(self, blocks: int, rounds: list[dict], bound: dict, touched: int) -> dict:
        o, timed = self.options, rounds[self.options.warmup :]
        size = o.concurrent * o.cache.transfer_bytes(blocks)
        speeds = [size / r["seconds"] / 1e9 for r in timed]
        if bound["limit"] == "line rate":
            limit = limits.line_rate(bound["transports"])
        else:
            limit = size / float(np.median([r["limit_s"] for r in timed])) / 1e9 if bound["limit"] else None
        wrong, unheard = (sum(r[key] for r in rounds) for key in ("wrong", "unheard"))
        telemetry = [t for r in timed for t in r["telemetry"]]
        median_s = float(np.median([r["seconds"] for r in timed]))
        return {
            "backend": o.backend, "memory": o.memory, "prefill_tp": o.prefill_tp, "decode_tp": o.decode_tp,
            "blocks": blocks, "concurrent": o.concurrent, "random_blocks": o.is_random,
            "bytes": size, "iterations": o.iterations, "ms_median": median_s * 1e3,
            "gbps_median": float(np.median(speeds)), "gbps_p5": float(np.percentile(speeds, 5)),
            "gbps_p95": float(np.percentile(speeds, 95)),
            "transport": ", ".join(bound["shown"]) or None,
            "limit": bound["limit"], "limit_gbps": limit, "ratio_to_limit": float(np.median(speeds)) / limit if limit else None,
            "small_read_us": self.small_s * 1e6, "connect_ms": self.connect_s * 1e3,
            "descriptors": timed[0]["descriptors"], "descriptors_per_s": timed[0]["descriptors"] / median_s,
            "telemetry": {
                "bytes": int(sum(t["bytes"] for t in telemetry) / len(timed)),
                "merged_descriptors": sum(t["descriptors"] for t in telemetry) / len(timed),
                "post_us_median": float(np.median([t["post_us"] for t in telemetry])),
                "transfer_us_median": float(np.median([t["us"] for t in telemetry])),
            },
            "verified": not wrong and not touched and not unheard,
            "wrong_bytes": wrong, "touched_bytes": touched, "notifications_missing": unheard,
        }  # fmt: skip
