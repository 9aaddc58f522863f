"""The transfer benchmark for real, on Ray actors of two nodes; between plain ones: tests/processes/test_transfer_ranks.py."""

import json

import pytest

from tests.helpers.commands import BIN, run

SCRIPT = (str(BIN / "python"), "debug/test_nixl_connector_ray.py")
SHAPE = ("--num-layers", "4", "--num-blocks", "16", "--iterations", "2", "--warmup", "1")


def swept(json_file, *options: str) -> list[dict]:
    run(*SCRIPT, *SHAPE, *options, "--json", str(json_file))
    return json.loads(json_file.read_text())


@pytest.mark.parametrize(
    ("options", "transport", "limit"),
    [((), "cma/memory", "memory copy"), (("--ucx-tls", "tcp"), "tcp/lo", "TCP stream")],
)
def test_a_sweep_across_nodes_is_verified_beside_its_limit(local_cluster, tmp_path, options, transport, limit):
    cases = swept(tmp_path / "out.json", "--strategy", "spread", "--sweep", *options)
    assert [case["blocks"] for case in cases] == [1, 2, 4, 8, 16]
    assert {(case["transport"], case["limit"], case["verified"]) for case in cases} == {(transport, limit, True)}
    assert all(case["ratio_to_limit"] > 0 for case in cases)
    prefill, decode = cases[0]["nodes"]
    assert prefill != decode and {prefill, decode} <= {"127.0.0.3", "127.0.0.4"}


def test_two_ranks_to_four_need_two_nodes(local_cluster, tmp_path):
    """A node of the local cluster has four slots: six ranks fit two nodes, not one."""
    tp = ("--prefill-tp", "2", "--decode-tp", "4", "--random-blocks", "--blocks", "8")
    packed = run(*SCRIPT, *tp, "--strategy", "pack", check=False)
    assert packed.returncode == 2 and "packed needs 6 CPUs on one node" in packed.stderr
    (case,) = swept(tmp_path / "out.json", *tp, "--strategy", "spread")
    assert case["verified"] and (case["prefill_tp"], case["decode_tp"]) == (2, 4)
