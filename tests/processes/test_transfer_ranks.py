"""The transfer benchmark for real, between plain processes, right and wrong; on Ray actors: tests/e2e/test_2_transfer.py."""

import dataclasses
import json

import pytest

from pdbench.transfer.bench import Bench, Options
from pdbench.transfer.cache import Cache, Request, pieces
from pdbench.transfer.rank import TransferError
from pdbench.transfer.ranks import LocalRanks
from tests.helpers.commands import BIN, run

SMALL = Cache(layers=3, blocks=16, block_size=4, heads=8, head_dim=16, value_bytes=2)
LOOPBACK = {"UCX_PROTO_INFO": "y", "UCX_NET_DEVICES": "lo"}
SCRIPT = (str(BIN / "python"), "debug/test_nixl_connector_ray.py")


def transfer(options: Options, blocks: int, read_pieces=pieces, **env: str) -> dict:
    ranks = LocalRanks(options.specs(LOOPBACK | env, 0, 60))
    try:
        return Bench(ranks, options, read_pieces).run(blocks)
    finally:
        ranks.close()
        assert not any(process.is_alive() for process in ranks.processes.values())


@pytest.mark.parametrize(("prefill_tp", "decode_tp"), [(1, 2), (2, 1), (2, 4)])
def test_real_transfers_between_tp_sizes_are_verified(prefill_tp, decode_tp):
    case = transfer(Options(SMALL, prefill_tp, decode_tp, iterations=2, warmup=0, concurrent=2, is_random=True), 5)
    assert case["verified"] and case["transport"] == "cma/memory" and case["limit"] == "memory copy"
    assert case["bytes"] == case["telemetry"]["bytes"] == 2 * 5 * 3 * SMALL.block_bytes(1)
    assert case["gbps_p5"] <= case["gbps_median"] <= case["gbps_p95"] and case["ratio_to_limit"] > 0


def test_over_tcp_the_limit_is_a_socket():
    case = transfer(Options(SMALL, iterations=1, warmup=1), 4, UCX_TLS="tcp")
    assert case["verified"] and (case["transport"], case["limit"]) == ("tcp/lo", "TCP stream")


def test_a_planted_wrong_descriptor_is_seen():
    """Reads that begin one head late bring wrong bytes, although NIXL calls them done."""

    def one_head_late(*args):
        return [dataclasses.replace(p, remote_offset=p.remote_offset + SMALL.head_bytes, length=p.length - SMALL.head_bytes)
                for p in pieces(*args)]  # fmt: skip

    case = transfer(Options(SMALL, iterations=1, warmup=0), 4, one_head_late)
    assert not case["verified"] and case["wrong_bytes"] == 4 * 3 * SMALL.block_bytes(1)


def test_a_write_outside_the_blocks_is_seen():
    """Somebody writes into block 9, which no transfer of blocks 0 to 3 may touch."""
    options = Options(SMALL, iterations=1, warmup=0)
    ranks = LocalRanks(options.specs(LOOPBACK, 0, 60))
    try:
        bench = Bench(ranks, options)
        ranks.call([("decode0", "fill", (bench.generation, [Request(remote=(9,), local=(9,))]))])
        case = bench.run(4)
    finally:
        ranks.close()
    assert not case["verified"] and (case["wrong_bytes"], case["touched_bytes"]) == (0, 3 * SMALL.block_bytes(1))


def test_a_rank_that_dies_is_reported_and_the_others_end():
    ranks = LocalRanks(Options(SMALL).specs(LOOPBACK, 0, 60))
    ranks.processes["prefill0"].kill()
    with pytest.raises(TransferError, match="prefill0 ended with exit code -9"):
        Bench(ranks, Options(SMALL))
    ranks.close()
    assert not any(process.is_alive() for process in ranks.processes.values())


def test_a_backend_that_cannot_start_is_reported():
    with pytest.raises(TransferError, match="prefill0: NIXL has no backend NOSUCH here; it has .*UCX"):
        LocalRanks(Options(SMALL, backend="NOSUCH").specs(LOOPBACK, 0, 60))


def test_the_script_writes_its_cases(tmp_path):
    path = tmp_path / "out.json"
    shape = ["--num-layers", "2", "--kv-heads", "2", "--head-dim", "8", "--num-blocks", "12", "--iterations", "2"]
    done = run(*SCRIPT, "--local", *shape, "--sweep", "--json", str(path))
    cases = json.loads(path.read_text())
    assert [case["blocks"] for case in cases] == [1, 2, 4, 8, 12]
    assert all(case["verified"] and case["limit_gbps"] and case["transport"] == "cma/memory" for case in cases)
    assert "verified" in done.stdout and cases[0]["placement"] == "local" and cases[0]["versions"]["nixl"] == "1.3.2"
