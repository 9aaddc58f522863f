"""The KV transfer: what engines are told, and what UCX says about it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pdbench.stack import Stack
from pdbench.transport import UCX_TABLE, VERBOSE_ENV, Transport, read_transports

# As UCX printed it: two engines on one machine, UCX_PROTO_INFO=y.
READ = """\
[1795440509.252015] [vm:8680 :0]   +--------------------------------+----------------------------------+------------+
[1795440509.252018] [vm:8680 :0]   | ucp_context_0 intra-node cfg#1 | remote memory read by ucp_get*(multi) into host memory from host    |
[1795440509.252020] [vm:8680 :0]   +--------------------------------+----------------------------------+------------+
[1795440509.252022] [vm:8680 :0]   |                         0..inf | zero-copy                        | cma/memory |
[1795440509.252023] [vm:8680 :0]   +--------------------------------+----------------------------------+------------+
"""  # noqa: E501
MESSAGE = """\
[1795440444.028738] [vm:8680 :0]   | ucp_context_0 self cfg#0 | active message by ucp_am_send* from host memory    |
[1795440444.028742] [vm:8680 :0]   |                        0 | short                                     | tcp/lo |
[1795440444.028743] [vm:8680 :0]   |                 1..16515 | zero-copy                                 | tcp/lo |
"""
WRITE = """\
[1795440444.024804] [vm:8680 :0]   | ucp_context_0 self cfg#0 | remote memory write by ucp_put* from host memory to host    |
[1795440444.024809] [vm:8680 :0]   |                   0..inf | zero-copy                                      | cma/memory |
"""  # noqa: E501
PREFIX = "(ServeReplica:pdbench:Decode:gpt-oss-tiny pid=7883) "
READ_TITLE = "| ucp_context_0 inter-node cfg#2 | remote memory read by ucp_get*(multi) into cuda/GPU0 from cuda |"


def lines(*tables, before="", after=""):
    return [f"{before}{line}{after}" for table in tables for line in table.splitlines()]


prefixes = pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), (PREFIX, ""), (f"\x1b[36m{PREFIX}\x1b[0m", ""), (f"\x1b[36m{PREFIX}\x1b[0m\x1b[32m", "\x1b[0m")],
    ids=["bare", "ray", "ray-colours", "all-colours"],
)


@prefixes
def test_the_transport_of_reads_is_seen_in_what_ucx_printed(before, after):
    assert read_transports(lines(READ, before=before, after=after)) == ["cma/memory"]
    assert read_transports(lines(READ, MESSAGE, WRITE, before=before, after=after)) == ["cma/memory"]


@prefixes
def test_messages_and_writes_do_not_carry_the_cache(before, after):
    assert read_transports(lines(MESSAGE, WRITE, before=before, after=after)) == []
    over_tcp = READ.replace("cma/memory", "tcp/lo    ")
    assert read_transports(lines(WRITE, over_tcp, WRITE, before=before, after=after)) == ["tcp/lo"]


def test_every_transport_is_told_once_and_in_order():
    over_tcp = READ.replace("cma/memory", "tcp/lo    ")
    assert read_transports(lines(over_tcp, READ, over_tcp)) == ["cma/memory", "tcp/lo"]


def test_all_rows_of_a_read_count_with_noise_between():
    table = [READ_TITLE, "INFO engine: | not a row", "| 0 | copy-out | rc_mlx5/mlx5_0:1 |", "",
             "| 1..inf | (?) rendezvous zero-copy read from remote | cuda_ipc/cuda |"]  # fmt: skip
    assert read_transports(table) == ["cuda_ipc/cuda", "rc_mlx5/mlx5_0:1"]


@pytest.mark.parametrize(
    ("column", "transports"),
    [
        ("50% on srd/rdmap85s0:1 and 50% on srd/rdmap86s0:1", ["srd/rdmap85s0:1", "srd/rdmap86s0:1"]),
        ("30% on tcp/eth0, 40% on tcp/eth1, and 30% on tcp/eth2", ["tcp/eth0", "tcp/eth1", "tcp/eth2"]),
        ("rc_mlx5/mlx5_0:1 50% on path0 and 50% on path1", ["rc_mlx5/mlx5_0:1"]),
        ("rc_mlx5/mlx5_1:1/path0", ["rc_mlx5/mlx5_1:1/path0"]),
    ],
)
def test_several_rails_are_told_apart(column, transports):
    assert read_transports([READ_TITLE, f"| 65..inf | zero-copy | {column} |"]) == transports


def test_no_output_is_no_transport():
    assert read_transports([]) == []
    assert read_transports(["| 0..inf | zero-copy | cma/memory |"]) == [], "a row without its title"


@given(st.lists(st.text(alphabet="| abc/:0.\x1b[m") | st.sampled_from(lines(READ, MESSAGE, WRITE))))
def test_any_output_can_be_read(output):
    assert set(read_transports(output)) <= {name for line in output for name in line.replace("|", " ").split()}


def test_the_lines_asked_of_engines_are_the_rows_and_titles():
    kept = [line for line in lines(READ) if re.search(UCX_TABLE, line)]
    assert len(kept) == 2 and read_transports(kept) == ["cma/memory"]


def test_each_side_of_the_transfer_has_its_role():
    ucx, stack = Transport(), Stack((2, 60, 0), (0, 29, 0))
    assert ucx.kv_transfer_config("prefill", "cuda", {}, stack) == {
        "kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_buffer_device": "cuda",
        "kv_load_failure_policy": "fail", "kv_connector_extra_config": {"backends": ["UCX"]},
    }  # fmt: skip
    assert ucx.kv_transfer_config("decode", "cuda", {}, stack)["kv_role"] == "kv_consumer"


def test_the_original_study_knew_one_role_and_no_policy():
    config = Transport().kv_transfer_config("decode", "cuda", {}, Stack((2, 51, 0), (0, 11, 0)))
    assert config["kv_role"] == "kv_both" and "kv_load_failure_policy" not in config


def test_the_backend_and_further_options_reach_the_connector():
    config = Transport(backend="LIBFABRIC").kv_transfer_config("decode", "cpu", {"num_threads": 0}, Stack((2, 60), (0, 29)))
    assert config["kv_connector_extra_config"] == {"backends": ["LIBFABRIC"], "num_threads": 0}
    assert config["kv_buffer_device"] == "cpu"


@pytest.mark.parametrize(
    ("transport", "environment"),
    [
        (Transport(), {"UCX_PROTO_INFO": "y"}),
        (Transport(ucx_tls="tcp"), {"UCX_PROTO_INFO": "y", "UCX_TLS": "tcp"}),
        (Transport(verbose=True), {"UCX_PROTO_INFO": "y", **VERBOSE_ENV}),
        (Transport(backend="LIBFABRIC"), {}),
        (Transport(backend="LIBFABRIC", verbose=True), VERBOSE_ENV),
    ],
)
def test_engines_get_what_the_options_ask_for(transport, environment):
    assert transport.environment() == environment


def test_verbose_speaks_for_nixl_ucx_and_vllm():
    assert {name.split("_")[0] for name in VERBOSE_ENV} == {"NIXL", "UCX", "VLLM"}
    assert {value.upper() for value in VERBOSE_ENV.values()} == {"DEBUG"}


@pytest.mark.parametrize("wrong", [{"backend": "TCP"}, {"tls": "tcp"}, {"verbose": "loud"}])
def test_an_unknown_transport_is_refused(wrong):
    with pytest.raises(ValidationError):
        Transport(**wrong)
