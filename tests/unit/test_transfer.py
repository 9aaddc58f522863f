"""The transfer benchmark: shapes, addresses, patterns, limits and options."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdbench.transfer import limits, pattern
from pdbench.transfer.cache import Cache, check, pieces, requests

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "debug/test_nixl_connector_ray.py"
SMALL = Cache(layers=3, blocks=16, block_size=4, heads=8, head_dim=16, value_bytes=2)


@pytest.fixture(scope="module")
def script():
    """The script as a module: importing PyTorch again for each of its options would take minutes."""
    spec = importlib.util.spec_from_file_location("transfer_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_prompt_of_gpt_oss_120b_weighs_what_its_heads_and_layers_say():
    """2 (key, value) x 8 heads x 64 x 2 bytes = 2 KiB per token and layer; of 18 sliding layers 128 tokens and a block."""
    cache = Cache(
        layers=36, blocks=400, block_size=16, heads=8, head_dim=64, value_bytes=2, sliding_layers=18, sliding_window=128
    )
    assert cache.blocks_of(5000) == 313
    assert cache.transfer_bytes(313) == 2048 * 16 * (18 * 313 + 18 * 9)
    assert cache.block_bytes(4) == 2048 * 16 // 4


sizes = st.sampled_from([1, 2, 4, 8])


@given(sizes, sizes)
def test_every_byte_of_a_block_is_read_exactly_once(prefill_tp, decode_tp):
    """Heads of the prefill ranks and of the decode ranks, end to end, are the same bytes of the whole block."""
    read = []
    for rank in range(decode_tp):
        mine = rank * SMALL.block_bytes(decode_tp)
        for piece in pieces(SMALL, prefill_tp, decode_tp, rank):
            theirs = piece.source * SMALL.block_bytes(prefill_tp) + piece.remote_offset
            assert theirs == mine + piece.local_offset, "the same heads on both sides"
            read += range(theirs, theirs + piece.length)
    assert sorted(read) == list(range(SMALL.block_bytes(1)))


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_requests_share_no_block(blocks, concurrent, is_random, seed):
    some = requests(SMALL, blocks, concurrent, is_random, seed)
    for side in ("remote", "local"):
        used = [block for request in some for block in getattr(request, side)]
        assert len(set(used)) == len(used) == blocks * concurrent and set(used) <= set(range(SMALL.blocks))
    assert some == requests(SMALL, blocks, concurrent, is_random, seed)


@pytest.mark.parametrize(
    ("cache", "tp", "rule"),
    [
        (SMALL, (2, 3), "must divide each other, 2 and 3 do not"),
        (SMALL, (16, 1), "prefill TP 16 must divide the 8 KV heads"),
        (
            dataclasses.replace(SMALL, block_size=1, head_dim=1),
            (1, 1),
            "has 4 bytes: choose sizes that make it a multiple of 8",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(cache, tp, rule):
    with pytest.raises(ValueError, match=rule):
        check(cache, *tp)


def test_no_two_words_of_both_sides_are_alike():
    everywhere = torch.arange(SMALL.blocks)
    seen = [
        pattern.words(SMALL, layer, everywhere, range(8), side).flatten() for layer in range(SMALL.layers) for side in (0, 1)
    ]
    assert len(torch.cat(seen).unique()) == sum(map(len, seen))


def test_a_wrong_layer_block_head_or_word_is_counted():
    tensors = [torch.zeros((SMALL.blocks, 8, SMALL.head_bytes // 8), dtype=torch.int64) for _ in range(SMALL.layers)]
    pattern.fill(SMALL, tensors, range(8), 1)
    assert pattern.differing(SMALL, tensors, range(8), 1) == 0
    tensors[0][3] = tensors[1][3]
    tensors[2][5, 0] = tensors[2][5, 1]
    tensors[1][7, 2, 4] += 1
    assert pattern.differing(SMALL, tensors, range(8), 1) == SMALL.block_bytes(1) + SMALL.head_bytes + 8
    assert pattern.differing(SMALL, tensors, range(8), 0) == SMALL.layers * SMALL.blocks * SMALL.block_bytes(1)


def test_limits_know_what_bounds_a_transport(tmp_path):
    assert limits.bound_of(["cma/memory"]) == "memory copy" and limits.bound_of(["tcp/lo"]) == "TCP stream"
    assert limits.bound_of(["cuda_ipc/cuda"]) == "device copy" and limits.bound_of([]) is None
    assert limits.bound_of(["cma/memory", "tcp/lo"]) is None, "two kinds have no one limit"
    for name, rate in (("rdmap85s0", "100 Gb/sec (4X EDR)"), ("rdmap86s0", "100 Gb/sec (4X EDR)")):
        (tmp_path / name / "ports/1").mkdir(parents=True)
        (tmp_path / name / "ports/1/rate").write_text(f"{rate}\n")
    both = ["srd/rdmap85s0:1", "srd/rdmap86s0:1"]
    assert limits.bound_of(both) == "line rate" and limits.line_rate(both, tmp_path) == 25.0
    assert limits.line_rate(["srd/absent:1"], tmp_path) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "one of the arguments --strategy --local is required"),
        (("--local", "--backends", "UCX,MOONCAKE"), "'MOONCAKE' is not one of UCX, LIBFABRIC"),
        (("--local", "--blocks", "0"), "'0' is not a whole number of at least 1"),
        (("--local", "--blocks", "9", "--num-blocks", "8"), "1 transfers of 9 blocks do not fit a cache of 8"),
        (("--local", "--sweep", "--tokens", "7"), "not allowed with argument --sweep"),
        (("--local", "--prefill-tp", "3"), "prefill TP 3 must divide the 8 KV heads"),
        (("--local", "--model", "nowhere.yaml"), "no such file: nowhere.yaml"),
        (("--local", "--memory", "cuda"), "PyTorch sees no GPU"),
        (("--local", "--env", "UCX_TLS"), "'UCX_TLS' is not NAME=VALUE"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(script, monkeypatch, capsys, options, message):
    if "cuda" in options:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["test_nixl_connector_ray.py", *options])
    try:
        status = script.main()
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert status == 2 and message in said and len(said.splitlines()) == 1


def test_it_needs_nothing_but_nixl_torch_and_numpy():
    """In a process where nothing else can be imported: for hosts where only NIXL is installed."""
    absent = ["ray", "vllm", "pydantic", "yaml", "pandas", "rich", "psutil"]
    program = f"""
import runpy, sys
sys.modules |= dict.fromkeys({absent})
sys.argv = ["x", "--help"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "--local" in done.stdout, done.stderr
