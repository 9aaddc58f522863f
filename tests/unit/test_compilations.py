"""Kernels that are compiled late: read from vLLM's lines, warmed away before a level, and measured again where one slips in."""

import json
import random
import re
import subprocess
import sys

import pytest

from pdbench.manifest import FILENAME, Manifest
from pdbench.measure.level_gates import Snapshot
from pdbench.measure.warm_up import MAX_ROUNDS, warm_up
from pdbench.serve import client
from pdbench.serve.compilations import COLD, LINES, Compilations, gate, pad_steps, read_compilations
from pdbench.workload import Level, level_seed
from tests.helpers.sweeping import NAMES, FakeServer, serving, sweeper

# vLLM's monitor needs no GPU to say its lines, and reports each compilation only if it is asked to be verbose.
MONITOR = """
from vllm.utils import jit_monitor
jit_monitor.activate(verbose=True)
for kernel in ("_ragged", "_ragged", "<lambda>"):
    jit_monitor._handle_jit_event(backend="Triton", event="kernel JIT compilation", fn_name=kernel, detail="key=1")
"""
# As triton/runtime/autotuner.py prints it.
TUNED = "Triton autotuning for function topk,\nwith key as (1,),\nfinished after 3.00s,\nbest config selected: x;\n"


def test_vllms_own_lines_are_read():
    done = subprocess.run([sys.executable, "-c", MONITOR], capture_output=True, text=True, check=True)
    lines = [line for line in (done.stdout + done.stderr + TUNED).splitlines() if re.search(LINES, line)]
    assert len(lines) == 5
    found = Compilations(**read_compilations(lines))
    assert (found.monitored, sorted(found.kernels)) == (1, ["?", "_ragged", "_ragged", "topk"])
    assert read_compilations([]) == {"monitored": 0, "kernels": []}


BEFORE = Compilations(monitored=2, kernels=["a", "b"])


@pytest.mark.parametrize(
    ("after", "cold", "passed", "seen", "value"),
    [
        (["a", "b"], False, True, "0 compilations on 2 ranks", 0),
        (["c", "a", "b"], False, False, "1 compilations on 2 ranks: c", 1),  # lines of ranks are in no order of time
        (["a", "b", "a", "d"], False, False, "2 compilations on 2 ranks: a, d", 2),
        (["a", "b"], True, True, f"0 compilations on 2 ranks; {COLD}", 0),
        (["a", "b", "c"], True, True, f"1 compilations on 2 ranks: c; {COLD}", 1),
    ],
)
def test_nothing_is_compiled_while_a_level_runs(after, cold, passed, seen, value):
    found = gate(BEFORE, Compilations(monitored=2, kernels=after), cold, ranks=2)
    assert (found.name, found.passed, found.seen, found.value) == ("no-compilation", passed, seen, value)


def test_what_nobody_monitors_is_said_to_be_so():
    found = gate(Compilations(), Compilations(), cold=False, ranks=0)
    assert found.passed and found.seen.startswith("not monitored: ") and found.value is None


@pytest.mark.parametrize("cold", [False, True])
def test_a_rank_that_should_report_and_does_not_is_no_clean_level(cold):
    found = gate(Compilations(monitored=1), Compilations(monitored=1), cold, ranks=2)
    assert not found.passed and found.seen == "1 of 2 ranks report what they compile" and found.value is None


def test_every_step_size_has_a_graph_to_be_padded_to():
    sizes = pad_steps({}, 256)["compilation_config"]["cudagraph_capture_sizes"]
    assert sizes[:5] == [1, 2, 4, 8, 16] and sizes[-3:] == [7680, 7936, 8192] and len(sizes) == 19 + 32
    for tokens in range(1, 8193):
        padded = next(size for size in sizes if size >= tokens)
        assert padded - tokens < (256 if tokens > 128 else 8)


def test_throughput_has_graphs_for_steps_twice_as_large_unless_they_are_given():
    assert pad_steps({"performance_mode": "throughput"}, 256)["compilation_config"]["cudagraph_capture_sizes"][-1] == 16384
    both = pad_steps({"performance_mode": "throughput", "max_num_batched_tokens": 4096}, 256)
    assert both["compilation_config"]["cudagraph_capture_sizes"][-1] == 4096


def test_interactivity_has_a_graph_for_each_number_of_requests_as_in_vllm():
    """Its sizes would else be lost to those of the padding, without a word."""
    sizes = pad_steps({"performance_mode": "interactivity"}, 256)["compilation_config"]["cudagraph_capture_sizes"]
    own = pad_steps({}, 256)["compilation_config"]
    assert sizes[:34] == [*range(1, 33), 40, 48] and set(own["cudagraph_capture_sizes"]) < set(sizes)
    assert pad_steps({"performance_mode": "balanced"}, 256)["compilation_config"] == own


@pytest.mark.parametrize(("most", "ends"), [(5000, [4864, 5000]), (100, [96, 100]), (512, [256, 512])])
def test_the_largest_step_has_a_graph_of_its_own(most, ends):
    engine = pad_steps({"max_num_batched_tokens": most}, 256)
    assert engine["compilation_config"]["cudagraph_capture_sizes"][-2:] == ends


@pytest.mark.parametrize("own", [{"cudagraph_capture_sizes": [1]}, {"max_cudagraph_capture_size": 64}])
def test_graph_sizes_of_the_users_stay(own):
    assert pad_steps({"compilation_config": own}, 256) == {"compilation_config": own}
    both = pad_steps({"compilation_config": {"mode": 3}, "block_size": 64}, 256)
    assert both["block_size"] == 64 and both["compilation_config"]["mode"] == 3


# From here on with a server: the warm-up, and whole sweeps.


@pytest.fixture
def server(make_manifest):
    deployment = make_manifest("2xtp1", "collocated").deployment
    with serving(FakeServer(json.loads(deployment.model_dump_json()))) as server:
        server.compiled["monitored"] = 2
        yield server


def warmed(server, in_flight=3, first=True):
    """The snapshot after a warm-up; it had a request of 5 prompt tokens before."""
    before = Snapshot(counters={}, replicas={}, since=[5])
    load = client.Load(server.url, "m", isl=100, osl=4, in_flight=in_flight, rng=random.Random(1))
    found = warm_up(server.url, load, before, first)
    sent = [5] + [100] * len(server.requests)
    assert sorted(found.since) == sorted(sent), "the level's gates know of each request"
    return found


@pytest.mark.parametrize(("kernels", "rounds"), [(0, 1), (3, 1), (4, 2), (9, 2), (10, 3)])
def test_rounds_go_on_until_nothing_more_is_compiled(server, kernels, rounds):
    """Three requests at once, then rounds of six; that number of them compile a kernel each, the first ones."""
    server.cold = [f"k{n}" for n in range(kernels)]
    found = warmed(server)
    assert len(server.requests) == 3 + 6 * rounds
    assert sorted(found.compiled.kernels) == sorted(f"k{n}" for n in range(kernels)), "no compilation of the level's"


@pytest.mark.parametrize(("kernels", "sent"), [(0, 3), (1, 9), (4, 15)])
def test_later_levels_of_a_sweep_have_a_shorter_warm_up_while_nothing_has_been_compiled(server, kernels, sent):
    server.cold = [f"k{n}" for n in range(kernels)]
    warmed(server, first=False)
    assert len(server.requests) == sent


def test_a_compilation_since_the_launch_keeps_warm_ups_long(server):
    server.compiled["kernels"] = ["k"]
    warmed(server, first=False)
    assert len(server.requests) == 3 + 6


def test_a_kernel_that_is_compiled_again_and_again_ends_the_rounds_all_the_same(server):
    server.cold = ["k"] * 999
    warmed(server)
    assert len(server.requests) == 3 + 6 * MAX_ROUNDS


def test_where_nothing_is_monitored_one_round_is_sent(server):
    server.compiled["monitored"] = 0
    warmed(server)
    assert len(server.requests) == 3


@pytest.fixture
def swept(server, tmp_path, level_content):
    """Run a sweep of one level; returns status, stderr, the level's files and its record."""

    def swept(*options):
        status, _, err = sweeper(tmp_path, level_content())(*NAMES, "-u", server.url, "-c", "2", "-n", "20", *options)
        folder = tmp_path / "results" / "tiny_itl100_otl11_mixed_x"
        files = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        (record,) = Manifest.read(folder).levels
        return status, err, files, record

    return swept


def judged(record):
    return next(gate for gate in record.gates if gate.name == "no-compilation")


LEVEL = Level("concurrency", 2.0)
AGAIN = "run_bm: level conc2: 1 compilations on 2 ranks: late: measuring it again, now that it is warm\n"


def test_a_warm_level_is_measured_once(swept, server):
    status, err, files, record = swept()
    assert (status, files) == (0, ["conc2.json", FILENAME]), err
    assert (record.ok, record.attempt, record.seed) == (True, 1, level_seed(0, LEVEL))
    assert judged(record).seen == "0 compilations on 2 ranks" and server.finished == 20 + 2


@pytest.mark.parametrize("kernels", [[], ["k"]])
def test_a_sweep_warms_up_its_first_level_in_full_and_the_others_if_anything_was_compiled(
    server, tmp_path, level_content, kernels
):  # fmt: skip
    server.compiled["kernels"] = kernels
    status, _, err = sweeper(tmp_path, level_content())(*NAMES, "-u", server.url, "-c", "2,3", "-n", "20")
    smoke, first, other = 1, 2 + 2 * 2, 3 + (2 * 3 if kernels else 0)
    assert status == 0 and len(server.requests) == smoke + first + other, err


def test_a_level_that_met_a_compilation_is_measured_again_and_counts(swept, server, tmp_path):
    server.compiles = [["late"]]
    status, err, files, record = swept()
    assert (status, files) == (0, ["conc2.json", FILENAME]) and err.endswith(AGAIN)
    again = level_seed(0, LEVEL, "again")
    assert (record.ok, record.attempt, record.seed, record.problems) == (True, 2, again, [])
    assert again != level_seed(0, LEVEL) and set(server.seeds) >= {again}, "no prompt is sent twice"
    arguments = json.loads((tmp_path / "results/tiny_itl100_otl11_mixed_x/conc2.json").read_text())["arguments"]
    assert arguments[arguments.index("--seed") + 1] == str(again) and f"seed={again}" in record.command
    assert server.finished == 20 + 20 + 2, "replicas are asked after the measurement that counts alone"


def test_a_level_that_meets_compilations_twice_does_not_count(swept, server):
    server.compiles = [["late"], ["later"]]
    status, err, files, record = swept()
    assert (status, files) == (1, ["conc2.json.bad", FILENAME]) and AGAIN in err
    problem = "no-compilation: 1 compilations on 2 ranks: later; expected none while the level runs; "
    assert f"run_bm: error: level conc2 does not count: {problem}" in err
    assert (record.ok, record.attempt) == (False, 2) and record.problems[0].startswith(problem)


def test_as_published_a_compilation_is_noted_and_the_level_counts(swept, server):
    server.compiles = [["late"]]
    status, err, files, record = swept("--as-published")
    assert (status, files) == (0, ["conc2.json", FILENAME]) and "again" not in err
    assert (record.ok, record.attempt, record.warmup_seed) == (True, 1, None)
    assert judged(record).seen == f"1 compilations on 2 ranks: late; {COLD}"


def test_a_level_of_engines_that_report_nothing_counts_and_its_gate_says_so(swept, server):
    server.compiled["monitored"] = 0
    status, err, files, record = swept()
    assert status == 0 and record.ok and judged(record).seen.startswith("not monitored")


def test_only_a_compilation_has_a_level_measured_again(swept, server):
    """Debug logging fails it for good, compilation or not."""
    server.compiles = [["late"]]
    server.deployment["llm_configs"] = {"collocated": {"runtime_env": {"env_vars": {"UCX_LOG_LEVEL": "debug"}}}}
    status, err, files, record = swept()
    assert (status, files, record.attempt) == (1, ["conc2.json.bad", FILENAME], 1)
    assert len(record.problems) == 2 and server.finished == 20
