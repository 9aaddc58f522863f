"""debug/which_transport.py: what moved the KV cache, per reader of a log and per pair of a deployment."""

import subprocess
import sys
from pathlib import Path

import pytest

from pdbench.manifest import Replica
from pdbench.network.transport_pairs import pairs
from pdbench.network.ucx_log import read_tables

ROOT = Path(__file__).resolve().parents[2]
CAPTURED = ROOT / "tests/data/ucx"


def which(*options: str, text: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "debug/which_transport.py", *options]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "said"),
    [("cma", "cma/memory: zero-copy"), ("tcp", "tcp/lo: software emulation"), ("posix", "tcp/lo: software emulation"),
     ("ray_cma", "cma/memory: zero-copy"), ("ray_tcp", "tcp/lo: software emulation")],
)  # fmt: skip
def test_a_real_log_names_the_transport_and_the_line_that_proves_it(name, said):
    done = which(str(CAPTURED / f"{name}.log"))
    assert done.returncode == 0 and "reader vm:" in done.stdout and said in done.stdout
    proof = [line.strip() for line in done.stdout.splitlines() if line.strip().endswith("|")]
    assert proof and all("\x1b" not in line and said.split(":")[0] in line for line in proof)


def test_standard_input_is_read():
    assert "tcp/lo" in which("-", text=(CAPTURED / "tcp.log").read_text()).stdout


def test_lines_that_ray_folded_are_reported():
    done = which(str(CAPTURED / "ray_cma_repeated.log"))
    assert done.returncode == 1 and "RAY_DEDUP_LOGS=0" in done.stdout


def test_a_log_without_tables_proves_nothing(tmp_path):
    (tmp_path / "log").write_text("INFO engine started\n")
    done = which(str(tmp_path / "log"))
    assert done.returncode == 1 and "UCX_PROTO_INFO=y" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "give either log files or --live"), (("a", "--live"), "give either log files or --live"),
     (("/nowhere.log",), "/nowhere.log: No such file or directory"),
     (("--live", "--base-url", "http://127.0.0.1:1"), "http://127.0.0.1:1")],
)  # fmt: skip
def test_bad_input_is_one_line(options, message):
    done = which(*options)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def replica(role: str, pid: int) -> Replica:
    return Replica(role=role, replica_id=f"{role}{pid}", node_id="n", node_ip="127.0.0.3", pid=pid)


def test_every_pair_has_the_reads_of_its_own_decode_ranks():
    reads = read_tables([*(CAPTURED / "cma.log").read_text().splitlines(), *(CAPTURED / "tcp.log").read_text().splitlines()])
    over_cma, over_tcp = (int(read.process.split(":")[1]) for read in reads)
    replicas = [
        replica("prefill", 1),
        replica("prefill", 2),
        replica("decode", 3),
        replica("decode", over_tcp),
        replica("ingress", 5),
    ]
    found = pairs(replicas, {3: [3, over_cma], over_tcp: []}, reads)
    assert [(p.prefill.pid, p.decode.pid, p.transports) for p in found] == [
        (1, 3, ["cma/memory"]), (2, 3, ["cma/memory"]), (1, over_tcp, ["tcp/lo"]), (2, over_tcp, ["tcp/lo"]),
    ]  # fmt: skip
    assert pairs(replicas, {}, [])[0].transports == []


TABLE = """\
[1.1] [node:42:0] | ucp_context_0 inter-node cfg#3 | remote memory read by ucp_get*(multi) into cuda/GPU0 from cuda |
[1.1] [node:42:0] |                         0..inf | {} | ud_verbs/rdmap1s0:1 |
"""


@pytest.mark.parametrize(("how", "code"), [("software emulation", 1), ("zero-copy", 0)])
def test_rdma_by_name_that_is_emulated_in_fact_fails(how, code):
    done = which("-", text=TABLE.format(how))
    assert done.returncode == code and f"ud_verbs/rdmap1s0:1: {how}, " in done.stdout
    assert ("FAIL: ud_verbs by name, emulated in fact" in done.stdout) == bool(code)
