"""Result files of other tools: two are read, with the same numbers; the others are named."""

import json

import pytest

from pdbench.read import trim
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results

NAME = "tiny_itl100_otl11_mixed_2xtp1"
GUIDELLM = {"metadata": {"version": 1, "guidellm_version": "0.6.0"}, "args": {}, "benchmarks": [{"metrics": {}}]}
SGLANG = {"backend": "sglang", "completed": 20, "total_output_tokens_retokenized": 220, "mean_ttft_ms": 50.0}
GENAI_PERF = {"request_latency": {"unit": "ms", "avg": 1.0}, "input_config": {"model": ["m"], "perf_analyzer": {}}}
INFERENCEX = {"hw": "h200", "tp": 8, "conc": 4, "tput_per_gpu": 900.0, "mean_ttft": 0.2}
PER_REQUEST = {"metadata": {"session_num": 0}, "metrics": {"request_latency": {"value": 1.0, "unit": "ms"}}, "error": None}
OTHERS = [
    ("benchmarks.json", GUIDELLM, "guidellm, which has a mean time between tokens for each request"),
    ("a.json", {"type_": "r", **GUIDELLM}, "guidellm"),
    ("agg_x.json", INFERENCEX, "InferenceX, which has no number of requests"),
    ("agg_y.json", [INFERENCEX], "InferenceX"),
    ("bench.json", SGLANG, "sglang.bench_serving, which lacks num_prompts"),
    ("profile_export_genai_perf.json", GENAI_PERF, "genai-perf, which lacks benchmark_duration"),
    ("renamed.json", GENAI_PERF, "genai-perf"),
    ("throughput.json", {"elapsed_time": 1.0, "requests_per_second": 2.0}, "vllm bench throughput"),
    ("latency.json", {"avg_latency": 1.0, "latencies": [1.0], "percentiles": {}}, "vllm bench latency"),
    ("x.pytorch.json", [{"benchmark": {"name": "vLLM benchmark"}, "model": {}, "metric": {}}], "PyTorch's dashboard"),
    ("summary.json", [{"run_number": 0, "completed": 20}], r"vllm bench sweep \(its summary\), which repeats the files beside"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, write_folder):
    """Makes a result folder of files by their path in it."""

    def make(files, name=NAME):
        for path, content in files.items():
            *inside, filename = path.split("/")
            write_folder(tmp_path, "/".join([name, *inside]), {filename: content})
        return tmp_path / name

    return make


def aiperf(concurrency=4, requests=20, isl=100, osl=11, duration=2.0, **more):
    """A run of aiperf like a level of `level_content`: 10 requests/s, TTFT about 50 ms, TPOT about 10 ms."""
    each = 950 * concurrency * duration / requests
    tpot = min(11.0, each / 2 / max(1, osl - 1))
    values = {"time_to_first_token": (50.0, each - tpot * (osl - 1)), "inter_token_latency": (10.0, tpot),
              "inter_chunk_latency": (9.0, 9.5)}  # fmt: skip
    content = {
        name: {
            "unit": "ms",
            "avg": mean,
            "p50": median,
            "p90": 2 * median,
            "p95": 2.5 * median,
            "p99": 3 * median,
            "max": 3.5 * median,
            "std": 1.0,
        }
        for name, (median, mean) in values.items()
        if osl > 1 or name == "time_to_first_token"
    }
    return content | {
        "schema_version": "1.3", "aiperf_version": "0.10.0",
        "request_count": {"unit": "requests", "avg": float(requests)},
        "benchmark_duration": {"unit": "sec", "avg": duration},
        "total_isl": {"unit": "tokens", "avg": 1.0 * requests * isl},
        "total_osl": {"unit": "tokens", "avg": 1.0 * requests * osl},
        "output_token_throughput": {"unit": "tokens/sec", "avg": requests * osl / duration},
        "request_throughput": {"unit": "requests/sec", "avg": requests / duration},
        "input_config": {
            "models": {"items": [{"name": "tiny"}]}, "endpoint": {"type": "completions", "streaming": True},
            "phases": [
                {"name": "warmup", "type": "concurrency", "exclude_from_results": True, "requests": 4, "concurrency": 4},
                {"name": "profiling", "type": "concurrency", "requests": requests, "concurrency": concurrency},
            ],
        },
        "was_cancelled": False, "error_summary": [], "start_time": "2026-07-03T04:23:09.561350",
    } | more  # fmt: skip


def old_aiperf(**more):
    """Its first versions: no version, no sums, no duration, another form of the settings."""
    content = aiperf(**more)
    for key in ("schema_version", "aiperf_version", "benchmark_duration", "total_isl", "total_osl"):
        del content[key]
    content["input_sequence_length"] = {"unit": "tokens", "avg": 100.0}
    content["output_sequence_length"] = {"unit": "tokens", "avg": 11.0}
    endpoint = {"model_names": ["tiny"], "type": "chat", "streaming": True}
    loadgen = {"concurrency": 4, "arrival_pattern": "concurrency_burst", "request_count": 20}
    return content | {"input_config": {"endpoint": endpoint, "loadgen": loadgen}}


def test_a_sweep_of_vllm_is_read_like_its_levels(folder, level_content):
    """`vllm bench sweep serve --experiment-name` makes such a folder; it adds run_number and the parameters to each file."""
    runs = {}
    for concurrency in (4, 8):
        for run in (0, 1):
            content = level_content(concurrency) | {"run_number": run, "max_concurrency": concurrency}
            runs[f"BENCH--max_concurrency={concurrency}/run={run}.json"] = json.dumps(content, indent=4)
        runs[f"BENCH--max_concurrency={concurrency}/summary.json"] = [{"run_number": 0, "completed": 20}]
    table = read_results([folder(runs | {"summary.csv": ",date\n"})])
    same = read_results([folder({"conc4.json": level_content(4), "conc8.json": level_content(8)}, NAME + "_own")])
    assert list(zip(table["level"], table["repeat"], strict=True)) == [(4, 1), (4, 2), (8, 1), (8, 2)]
    for column in ("median_ttft_ms", "p99_itl_ms", "input_throughput_per_node", "request_throughput", "in_flight"):
        assert list(table.loc[table["repeat"] == 1, column]) == list(same[column])


def test_a_sweep_over_request_rates(folder, level_content):
    content = level_content(concurrency=None, rate=4.0, duration=5.0)
    table = read_results([folder({"run=0.json": content})])
    assert list(zip(table["kind"], table["level"], strict=True)) == [("request-rate", 4)]


def test_a_sweep_over_servers_is_several_arms(folder, level_content):
    runs = {f"SERVE--block_size={size}-BENCH--max_concurrency=4/run=0.json": level_content(4) for size in (16, 32)}
    with pytest.raises(ResultError, match=r"different settings \(SERVE--block_size=16 and SERVE--block_size=32\): give each a"):
        read_results([folder(runs)])


def test_a_sweep_without_a_load_is_no_level(folder, level_content):
    with pytest.raises(ResultError, match=r"run=0.json: is no level: max_concurrency is None and request_rate 'inf'"):
        read_results([folder({"run=0.json": level_content(4) | {"max_concurrency": None}})])


def test_two_runs_of_a_sweep_with_one_load_are_not_one(folder, level_content):
    runs = {f"BENCH--seed={seed}/run=0.json": level_content(4) for seed in (1, 2)}
    with pytest.raises(ResultError, match=r"seed=1/run=0.json and .*seed=2/run=0.json are the same level"):
        read_results([folder(runs)])


@pytest.mark.parametrize("make", [aiperf, old_aiperf])
def test_aiperf_is_read_like_a_level(folder, level_content, make):
    row = read_results([folder({"profile_export_aiperf.json": make()})]).iloc[0]
    same = read_results([folder({"conc4.json": level_content(4)}, NAME + "_own")]).iloc[0]
    assert (row["kind"], row["level"], row["repeat"], row["completed"]) == ("concurrency", 4, 1, 20)
    for column in ("median_ttft_ms", "median_tpot_ms", "median_itl_ms", "p99_ttft_ms", "p99_tpot_ms", "p99_itl_ms", "duration",
                   "input_throughput_per_node", "output_throughput", "request_throughput", "interactivity"):  # fmt: skip
        assert row[column] == pytest.approx(same[column]), column
    assert (row["p90_ttft_ms"], row["p95_itl_ms"], row["max_itl_ms"]) == (100.0, 22.5, 31.5)
    assert row["date"] == "20260703-042309"


def test_runs_of_aiperf_at_several_loads_and_again(folder):
    runs = {f"{name}/profile_export_aiperf.json": aiperf(c) for name, c in (("c4", 4), ("c4_again", 4), ("c8", 8))}
    runs |= {"c4/inputs.json": {"data": []}, "c4/profile_export.jsonl": json.dumps(PER_REQUEST)}
    table = read_results([folder(runs)])
    assert list(zip(table["level"], table["repeat"], strict=True)) == [(4, 1), (4, 2), (8, 1)]


def test_aiperf_at_a_request_rate(folder):
    phase = {"name": "profiling", "type": "poisson", "rate": 5.0, "requests": 20}
    settings = aiperf()["input_config"] | {"phases": [phase]}
    row = read_results([folder({"profile_export_aiperf.json": aiperf(duration=4.0, input_config=settings)})]).iloc[0]
    assert (row["kind"], row["level"]) == ("request-rate", 5.0) and row["served_share"] > 0.95


def test_aiperf_with_one_output_token_has_no_tpot(folder):
    name = "tiny_itl100_otl1_prefill-only_2xtp1"
    row = read_results([folder({"profile_export_aiperf.json": aiperf(osl=1)}, name)]).iloc[0]
    assert row["median_ttft_ms"] == 50.0 and row[["median_tpot_ms", "p99_itl_ms"]].isna().all()


def test_a_file_of_aiperf_is_known_under_another_name(folder):
    assert read_results([folder({"conc4.json": aiperf()})])["median_tpot_ms"].iloc[0] == 10.0
    with pytest.raises(ResultError, match="conc8.json: max_concurrency is 4, but the file's name says 8"):
        read_results([folder({"conc8.json": aiperf()}, NAME + "_b")])


def without(key):
    return {name: value for name, value in aiperf().items() if name != key}


def settings(**more):
    return aiperf(input_config=aiperf()["input_config"] | more)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (without("inter_chunk_latency"), r"aiperf's inter_chunk_latency \(ITL here\) is missing"),
        (without("time_to_first_token"), r"aiperf's time_to_first_token \(TTFT here\) is missing"),
        (without("total_osl"), r"aiperf's output_sequence_length \(output tokens of a request\) is missing"),
        (aiperf(time_to_first_token={"unit": "s", "avg": 0.05}), "aiperf's time_to_first_token is in 's', not in ms"),
        (aiperf(inter_token_latency={"unit": "ms", "avg": 10.0, "p50": 9.0, "p99": 11.0}), "TPOT here. has no std"),
        (aiperf(was_cancelled=True), "aiperf's run was cancelled"),
        (aiperf(error_request_count={"avg": 3.0}), "20 of 20 requests completed, 3 counted as failed"),
        (settings(phases=[{"type": "concurrency", "concurrency": 4, "requests": 40}]), "20 of 40 requests completed"),
        (settings(endpoint={"streaming": False}), "aiperf ran without --streaming"),
        (settings(phases=[{"type": "fixed_schedule"}]), r"aiperf's load \(fixed_schedule\) is neither a concurrency nor a"),
        (settings(phases=[{"type": "user_centric", "rate": 2.0}]), "aiperf's arrivals are user_centric: what is read are"),
        (settings(phases=[{"concurrency": 4}, {"concurrency": 8}]), "aiperf measured 2 phases: run one level at a time"),
        (settings(phases=[{"concurrency": 4, "concurrency_ramp_duration": 9}]), "load rose during the run"),
        (settings(phases=3), "neither a concurrency nor a request rate"),
        (settings(phases=[{"concurrency": "4"}]), "is no level: max_concurrency is '4'"),
        (aiperf(request_count={"avg": 19.5}), "aiperf's request_count must be a whole number, not 19.5"),
        (aiperf(benchmark_duration={"unit": "sec", "avg": 0}), "aiperf's run has no duration"),
        (aiperf(isl=200), "prompts have 200 tokens on average, but the folder's name says 100"),
        (aiperf(osl=12), "total_output_tokens is 240, not 220"),
    ],
)  # fmt: skip
def test_a_run_of_aiperf_that_is_no_level_is_refused(folder, content, reason):
    with pytest.raises(ResultError, match=f"profile_export_aiperf.json: .*{reason}") as error:
        read_results([folder({"profile_export_aiperf.json": content})])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("filename", "content", "tool"), OTHERS, ids=[name for name, *_ in OTHERS])
@pytest.mark.parametrize("renamed", [False, True], ids=["own name", "conc4.json"])
def test_other_tools_are_named(folder, filename, content, tool, renamed):
    with pytest.raises(ResultError, match=f"is a file of .*{tool}.*what is read are levels of vllm bench serve") as error:
        read_results([folder({"conc4.json" if renamed else filename: content})])
    assert "\n" not in str(error.value) and ("conc4.json" if renamed else filename) in str(error.value)


@pytest.mark.parametrize(
    ("filename", "text", "tool"),
    [
        ("out.jsonl", json.dumps(SGLANG), "sglang.bench_serving"),
        ("out.jsonl", json.dumps(SGLANG | {"input_lens": [1] * 40000}), "sglang.bench_serving"),
        ("profile_export.jsonl", json.dumps(PER_REQUEST), r"aiperf \(each request\), which has no summary"),
        ("summary.csv", ",date\n", "vllm bench sweep"),
        ("benchmarks.csv", "Benchmark\n", "guidellm"),
    ],
)  # fmt: skip
def test_a_folder_without_levels_says_what_it_holds_instead(folder, filename, text, tool):
    with pytest.raises(ResultError, match=rf"holds no level: expected .*; {filename} is a file of {tool}"):
        read_results([folder({filename: text})])


def test_files_of_two_tools_are_not_one_arm(folder, level_content):
    with pytest.raises(ResultError, match="run=0.json is of another tool than the levels beside it"):
        read_results([folder({"conc4.json": level_content(4), "run=0.json": level_content(8)})])


@pytest.mark.parametrize("detailed", [True, False])
@pytest.mark.parametrize("between", ["\n", "", "\n\n"])
@pytest.mark.parametrize("details", [True, False])
def test_appended_results_are_counted_and_named(folder, level_content, detailed, between, details):
    """Without its lists such a file once passed for one level: the counts of the first object, the latencies of the last."""
    first = level_content(4, requests=4000, detailed=detailed)
    last = first | {key: 2 * value for key, value in first.items() if key.endswith("_ttft_ms")}
    path = folder({"conc4.json": between.join(json.dumps(one) for one in (first, first, last))})
    with pytest.raises(
        ResultError, match="conc4.json: holds 3 JSON objects, one after another, as --append-result writes them"
    ):
        read_results([path], details=details)


def test_appended_results_of_another_tool_are_named_too(folder):
    with pytest.raises(ResultError, match="holds 2 JSON objects.*; the first is a file of sglang.bench_serving"):
        read_results([folder({"conc4.json": "\n".join([json.dumps(SGLANG)] * 2)})])


def test_what_follows_a_level_is_no_second_one(folder, level_content):
    with pytest.raises(ResultError, match="not whole JSON: Extra data"):
        read_results([folder({"conc4.json": json.dumps(level_content(4)) + "]"})])


def test_a_key_that_is_there_twice_is_refused(folder, level_content):
    text = json.dumps(level_content(4))[:-1] + ', "duration": 1.0}'
    with pytest.raises(ResultError, match="conc4.json: 'duration' is there twice"):
        read_results([folder({"conc4.json": text})])


def test_files_of_other_tools_are_not_trimmed(folder, level_content):
    path = folder({"BENCH--max_concurrency=4/run=0.json": level_content(4)})
    with pytest.raises(ResultError, match="run=0.json: is not the bench client's own: such a folder is not trimmed"):
        trim.trim(path)
