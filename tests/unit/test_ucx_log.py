"""What UCX says of its transports, read from what it printed on this stack."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.network.ucx_log import TABLE, emulated_in, read_tables, transports_of, ways_of

# Captured from two ranks of the transfer benchmark, and from Ray drivers with two actors.
CAPTURED = Path(__file__).resolve().parents[1] / "data/ucx"


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


def captured(name: str) -> list[str]:
    return (CAPTURED / f"{name}.log").read_text().splitlines()


def named(lines: list[str], size: float | None = None) -> list[str]:
    return transports_of(read_tables(lines), size)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cma", ["cma/memory"]), ("tcp", ["tcp/lo"]), ("ray_cma", ["cma/memory"]), ("ray_tcp", ["tcp/lo"])],
)
def test_real_output_names_what_carried_the_reads(name, expected):
    assert named(captured(name)) == expected


def test_posix_shared_memory_carries_no_reads():
    """UCX_TLS=posix,self,tcp: posix cannot detect that a peer is gone, so everything goes over tcp."""
    (read,) = read_tables(captured("posix"))
    assert (read.transports, read.how) == (("tcp/lo",), "software emulation")


def test_a_read_says_who_how_and_for_which_sizes():
    (read,) = read_tables(captured("cma"))
    assert re.fullmatch(r"vm:\d+", read.process) and read.connection == "ucp_context_0 intra-node cfg#1"
    assert (read.low, read.high, read.how) == (0, math.inf, "zero-copy")
    assert read.line in captured("cma")


def test_colours_change_nothing_but_their_absence_in_the_proof():
    assert any("\x1b[" in line for line in captured("ray_cma")), "captured with colours"
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in captured("ray_cma")]
    assert read_tables(bare) == read_tables(captured("ray_cma"))


def test_lines_of_two_processes_may_be_mixed():
    one, two = captured("cma"), captured("tcp")
    mixed = [line for pair in zip(one, two) for line in pair] + one[len(two) :] + two[len(one) :]
    assert named(mixed) == ["cma/memory", "tcp/lo"]
    assert {read.transports for read in read_tables(mixed) if read.process == read_tables(one)[0].process} == {("cma/memory",)}


def test_sizes_choose_the_row():
    table = [READ_TITLE, "| 0..8K | short | rc_mlx5/mlx5_0:1 |", "| 8193..inf | zero-copy | cuda_ipc/cuda |"]
    assert named(table, 100) == ["rc_mlx5/mlx5_0:1"] and named(table, 1e6) == ["cuda_ipc/cuda"]


def test_a_row_of_no_bytes_proves_nothing():
    assert named([READ_TITLE, "| 0 | short | tcp/lo |"]) == []


def lines(*tables, before="", after=""):
    return [f"{before}{line}{after}" for table in tables for line in table.splitlines()]


prefixes = pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), (PREFIX, ""), (f"\x1b[36m{PREFIX}\x1b[0m", ""), (f"\x1b[36m{PREFIX}\x1b[0m\x1b[32m", "\x1b[0m")],
    ids=["bare", "ray", "ray-colours", "all-colours"],
)


@prefixes
def test_the_transport_of_reads_is_seen_in_what_ucx_printed(before, after):
    assert named(lines(READ, before=before, after=after)) == ["cma/memory"]
    assert named(lines(READ, MESSAGE, WRITE, before=before, after=after)) == ["cma/memory"]


@prefixes
def test_messages_and_writes_do_not_carry_the_cache(before, after):
    assert named(lines(MESSAGE, WRITE, before=before, after=after)) == []
    over_tcp = READ.replace("cma/memory", "tcp/lo    ")
    assert named(lines(WRITE, over_tcp, WRITE, before=before, after=after)) == ["tcp/lo"]


def test_every_transport_is_reported_once_and_in_order():
    over_tcp = READ.replace("cma/memory", "tcp/lo    ")
    assert named(lines(over_tcp, READ, over_tcp)) == ["cma/memory", "tcp/lo"]


def test_all_rows_of_a_read_count_with_noise_between():
    table = [READ_TITLE, "INFO engine: | not a row", "| 0..64 | copy-out | rc_mlx5/mlx5_0:1 |", "",
             "| 65..inf | (?) rendezvous zero-copy read from remote | cuda_ipc/cuda |"]  # fmt: skip
    assert named(table) == ["cuda_ipc/cuda", "rc_mlx5/mlx5_0:1"]


@pytest.mark.parametrize(
    ("column", "transports"),
    [
        ("50% on srd/rdmap85s0:1 and 50% on srd/rdmap86s0:1", ["srd/rdmap85s0:1", "srd/rdmap86s0:1"]),
        ("30% on tcp/eth0, 40% on tcp/eth1, and 30% on tcp/eth2", ["tcp/eth0", "tcp/eth1", "tcp/eth2"]),
        ("rc_mlx5/mlx5_0:1 50% on path0 and 50% on path1", ["rc_mlx5/mlx5_0:1"]),
        ("rc_mlx5/mlx5_1:1/path0", ["rc_mlx5/mlx5_1:1/path0"]),
    ],
)
def test_several_rails_are_reported_apart(column, transports):
    assert named([READ_TITLE, f"| 65..inf | zero-copy | {column} |"]) == transports


def test_no_output_is_no_transport():
    assert named([]) == []
    assert named(["| 0..inf | zero-copy | cma/memory |"]) == [], "a row without its title"


@given(st.lists(st.text(alphabet="| abc/:0.\x1b[m") | st.sampled_from(lines(READ, MESSAGE, WRITE))))
def test_any_output_can_be_read(output):
    assert set(named(output)) <= {name for line in output for name in line.replace("|", " ").split()}


def test_the_lines_asked_of_engines_are_the_rows_and_titles():
    kept = [line for line in lines(READ) if re.search(TABLE, line)]
    assert len(kept) == 2 and named(kept) == ["cma/memory"]


def ways(*rows):
    return ways_of(read_tables([READ_TITLE, *rows]))


@pytest.mark.parametrize(
    ("rows", "expected", "emulated"),
    [
        (["| 0..inf | software emulation | srd/rdmap0:1 |"], ["srd/rdmap0:1 (software emulation)"], ["srd/rdmap0:1"]),
        (["| 0..inf | zero-copy | srd/rdmap0:1 |"], ["srd/rdmap0:1 (zero-copy)"], []),
        (["| 0..8K | software emulation | rc_mlx5/m:1 |", "| 8193..inf | zero-copy | rc_mlx5/m:1 |"],
         ["rc_mlx5/m:1 (zero-copy)"], []),  # small ones do not matter
        (["| 0..8K | short | dc_mlx5/m:1 |", "| 8193..1M | software emulation | dc_mlx5/m:1 |", "| 1048577..inf | zero-copy | "
          "dc_mlx5/m:1 |"], ["dc_mlx5/m:1 (software emulation, zero-copy)"], ["dc_mlx5/m:1"]),
        (["| 0..inf | software emulation | 50% on ud_verbs/a:1 and 50% on ud_verbs/b:1 |"],
         ["ud_verbs/a:1 (software emulation)", "ud_verbs/b:1 (software emulation)"], ["ud_verbs/a:1", "ud_verbs/b:1"]),
        (["| 0..inf | multi-frag software emulation | srd/a:1 |"], ["srd/a:1 (multi-frag software emulation)"], ["srd/a:1"]),
        (["| 0..4K | software emulation | srd/a:1 |"], ["srd/a:1 (software emulation, small reads only)"], []),
        (["| 0..inf | software emulation | tcp/lo |"], ["tcp/lo (software emulation)"], []),  # which knows no other way
        (["| 0..inf | zero-copy | cuda_ipc/cuda |"], ["cuda_ipc/cuda (zero-copy)"], []),
    ],
)  # fmt: skip
def test_how_large_reads_are_done_is_kept(rows, expected, emulated):
    assert ways(*rows) == expected and emulated_in(expected) == emulated
    assert sorted({name for read in read_tables([READ_TITLE, *rows]) for name in read.emulated}) == emulated


@pytest.mark.parametrize(("name", "expected"), [("cma", ["cma/memory (zero-copy)"]), ("tcp", ["tcp/lo (software emulation)"])])
def test_real_output_says_how(name, expected):
    found = ways_of(read_tables(captured(name)))
    assert found == expected and emulated_in(found) == []


def test_one_emulated_connection_among_others_shows():
    one = "[1.1] [a:1:0] "
    lines = [
        READ_TITLE,
        "| 0..inf | zero-copy | srd/a:1 |",
        one + READ_TITLE,
        one + "| 0..inf | software emulation | srd/a:1 |",
    ]
    assert emulated_in(ways_of(read_tables(lines))) == ["srd/a:1"]
