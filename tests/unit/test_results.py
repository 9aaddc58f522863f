"""Result folders -> table: numbers worked out by hand, manifests, and folders that cannot be read."""

import math

import pandas as pd
import pytest

from pdbench.manifest import LevelRecord
from pdbench.read.level_file import ResultError
from pdbench.read.results import node_words, read_results, unit_words
from tests.helpers.one_level import COLLOCATED, read_one

PD = "tiny_itl100_otl11_mixed_p1xtp1-d1xtp2"


# -- numbers --


def test_throughput_is_tokens_over_duration(tmp_path, write_folder, level_content):
    row = read_one(write_folder, tmp_path, level_content(requests=20, isl=100, osl=11, duration=2.0))
    assert (row["input_throughput"], row["output_throughput"], row["total_throughput"]) == (1000, 110, 1110)
    assert (row["completed"], row["duration"]) == (20, 2.0)


def test_per_node_is_scaled_by_the_gpus_of_the_layout(tmp_path, write_folder, level_content):
    collocated = read_one(write_folder, tmp_path, level_content())  # 2xtp1: 2 of 8 GPUs
    assert (collocated["gpus"], collocated["gpus_per_node"]) == (2, 8)
    assert collocated["input_throughput_per_node"] == 4000
    pd = read_one(write_folder, tmp_path, level_content(), name=PD)  # P 1xTP1 + D 1xTP2: 3 of 8 GPUs
    assert pd["gpus"] == 3
    assert pd["output_throughput_per_node"] == pytest.approx(110 * 8 / 3)
    assert pd["total_throughput_per_node"] == pytest.approx(1110 * 8 / 3)


def test_interactivity_and_chunk_latency_come_from_the_medians(tmp_path, write_folder, level_content):
    content = level_content(duration=1.0, median_ttft_ms=50.0, median_tpot_ms=10.0, mean_ttft_ms=70.0, mean_tpot_ms=12.0)
    row = read_one(write_folder, tmp_path, content)
    assert row["interactivity"] == 100  # tokens/s/user
    assert row["chunk_latency_ms"] == 50 + 15 * 10
    assert read_one(write_folder, tmp_path, content, chunk_size=4)["chunk_latency_ms"] == 50 + 3 * 10
    assert read_one(write_folder, tmp_path, content, chunk_size=1)["chunk_latency_ms"] == 50


def test_the_clients_statistics_are_passed_on(tmp_path, write_folder, level_content):
    content = level_content()
    row = read_one(write_folder, tmp_path, content)
    for metric in ("ttft", "tpot", "itl"):
        for statistic in ("mean", "median", "p99", "std"):
            assert row[f"{statistic}_{metric}_ms"] == content[f"{statistic}_{metric}_ms"] > 0


def test_one_output_token_has_no_tpot(tmp_path, write_folder, level_content):
    row = read_one(write_folder, tmp_path, level_content(osl=1), name="tiny_itl100_otl1_mixed_2xtp1")
    for column in ("median_tpot_ms", "p99_tpot_ms", "p99_itl_ms", "interactivity", "chunk_latency_ms"):
        assert math.isnan(row[column])
    assert row["median_ttft_ms"] == 50


def test_prefill_only_has_one_output_token_whatever_the_name_says(tmp_path, write_folder, level_content):
    name = "tiny_itl100_otl11_prefill-only_2xtp1"
    assert math.isnan(read_one(write_folder, tmp_path, level_content(osl=1), name=name)["median_tpot_ms"])
    with pytest.raises(ResultError, match="total_output_tokens is 220, not 20"):
        read_one(write_folder, tmp_path, level_content(osl=11), name=name)


@pytest.mark.parametrize("isl", [1, 100])
def test_decode_only_sends_one_token_or_a_whole_prompt(tmp_path, write_folder, level_content, isl):
    name = "tiny_itl100_otl11_decode-only_2xtp1"
    assert read_one(write_folder, tmp_path, level_content(isl=isl), name=name)["input_throughput"] == 10 * isl


# -- rows and labels --


def test_a_row_for_each_level_and_repeat_in_order(tmp_path, write_folder, level_content):
    levels = {name: level_content(concurrency=int(name[4:].split("_")[0].split(".")[0]))
              for name in ("conc16.json", "conc4_rep2.json", "conc4.json", "conc8.json")}  # fmt: skip
    table = read_results([write_folder(tmp_path, COLLOCATED, levels)])
    assert list(zip(table["level"], table["repeat"], strict=True)) == [(4, 1), (4, 2), (8, 1), (16, 1)]
    assert set(table["kind"]) == {"concurrency"}
    identity = ["folder", "arm", "model", "layout", "placement", "isl", "osl", "phase"]
    expected = [str(tmp_path / COLLOCATED), "2xtp1", "tiny", "2xtp1", "", 100, 11, "mixed"]
    assert list(table[identity].iloc[0]) == expected


@pytest.mark.parametrize("filename", ["rr2.5.json", "conc4_rr2.5.json"])
def test_request_rate_levels(tmp_path, write_folder, level_content, filename):
    row = read_one(write_folder, tmp_path, level_content(rate=2.5), filename=filename)
    assert (row["kind"], row["level"]) == ("request-rate", 2.5)


@pytest.mark.parametrize("held", [4, None])
def test_a_cap_in_the_name_is_the_clients(tmp_path, write_folder, level_content, held):
    with pytest.raises(ResultError, match=f"max_concurrency is {held}, but the file's name says 128"):
        read_one(write_folder, tmp_path, level_content(held, rate=2.5), filename="conc128_rr2.5.json")


def test_other_files_are_not_read(tmp_path, write_folder, level_content):
    others = {"a.png": "x", "conc8.json.bad": "{", "conc8.json.part": "{", "b.txt": "x", ".conc9.json": "{"}
    assert read_one(write_folder, tmp_path, level_content())["level"] == 4
    write_folder(tmp_path, COLLOCATED, others)
    assert len(read_results([tmp_path / COLLOCATED])) == 1


# -- manifest --


def with_manifest(root, write_folder, level_content, manifest, name=COLLOCATED):
    folder = write_folder(root, name, {"conc4.json": level_content()})
    manifest.write(folder)
    return folder


def test_the_manifest_says_what_ran_not_the_name(tmp_path, write_folder, level_content, make_manifest):
    folder = with_manifest(tmp_path, write_folder, level_content, make_manifest("p1xtp2-d1xtp2", "pd-spread"))
    row = read_results([folder]).iloc[0]
    assert (row["layout"], row["placement"]) == ("p1xtp2-d1xtp2", "spread")
    assert row["arm"] == "p1xtp2-d1xtp2 spread"
    assert (row["gpus"], row["gpus_per_node"], row["accelerator"]) == (4, 4, "CPU")
    assert row["input_throughput_per_node"] == 1000


def test_gpus_per_node_asked_for_wins_over_the_manifest(tmp_path, write_folder, level_content, make_manifest):
    folder = with_manifest(tmp_path, write_folder, level_content, make_manifest())
    row = read_results([folder], gpus_per_node=16).iloc[0]
    assert (row["gpus_per_node"], row["input_throughput_per_node"]) == (16, 4000)


def test_a_manifest_without_deployment_leaves_the_name(tmp_path, write_folder, level_content, make_manifest):
    manifest = make_manifest().model_copy(update={"deployment": None})
    row = read_results([with_manifest(tmp_path, write_folder, level_content, manifest)]).iloc[0]
    assert (row["layout"], row["gpus_per_node"]) == ("2xtp1", 8)


def test_a_name_without_layout_needs_a_manifest(tmp_path, write_folder, level_content, make_manifest):
    name = "tiny_itl100_otl11_mixed_first-try"
    with pytest.raises(ResultError, match=f"{name}: no single layout in 'first-try'"):
        read_one(write_folder, tmp_path, level_content(), name=name)
    folder = with_manifest(tmp_path, write_folder, level_content, make_manifest("2xtp2", "collocated"), name)
    assert list(read_results([folder])["arm"]) == ["2xtp2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"isl": 99}, r"is of \(99, 11, 'mixed'\), but the folder's name says \(100, 11, 'mixed'\)"),
        ({"layout": "two"}, "cannot read the layout 'two'"),
        ({"gpus_per_node": 0}, "gpus_per_node is 0: give --gpus-per-node"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, write_folder, level_content, make_manifest, change, reason):
    folder = with_manifest(tmp_path, write_folder, level_content, make_manifest(**change))
    with pytest.raises(ResultError, match=f"manifest.json: {reason}"):
        read_results([folder])


def test_a_truncated_manifest_is_refused_and_named_once(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, COLLOCATED, {"conc4.json": level_content(), "manifest.json": '{"schema'})
    with pytest.raises(ResultError) as caught:
        read_results([folder])
    assert str(caught.value).count("manifest.json") == 1


def test_a_level_that_the_manifest_disowns_is_refused(tmp_path, write_folder, level_content, make_manifest):
    manifest = make_manifest()
    what = {"level": "conc4", "ok": False, "problems": ["a replica died"], "command": "c", "num_prompts": 20}
    when = {"launched": None, "started": "a", "ended": "b", "seed": 1, "warmup_seed": None}
    manifest.levels = [LevelRecord(**what, **when)]
    with pytest.raises(ResultError, match="manifest.json: conc4 does not count: a replica died"):
        read_results([with_manifest(tmp_path, write_folder, level_content, manifest)])


# -- folders and files that cannot be read --


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ResultError, match=f"{COLLOCATED}: no such folder"):
        read_results([tmp_path / COLLOCATED])


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / COLLOCATED).write_text("x")
    with pytest.raises(ResultError, match=f"{COLLOCATED}: is not a folder"):
        read_results([tmp_path / COLLOCATED])


@pytest.mark.parametrize("others", [{}, {"conc4.json.bad": "{}"}, {"manifest.json": "{}"}])
def test_a_folder_without_levels_is_empty(tmp_path, write_folder, others):
    with pytest.raises(ResultError, match=f"{COLLOCATED}: holds no level"):
        read_results([write_folder(tmp_path, COLLOCATED, others)])


def test_a_folder_of_another_name_is_refused(tmp_path, write_folder, level_content):
    with pytest.raises(ResultError, match="'results' is not a result folder"):
        read_one(write_folder, tmp_path, level_content(), name="results")


def test_an_unknown_json_file_is_reported(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, COLLOCATED, {"conc4.json": level_content(), "conc_8.json": "{}"})
    with pytest.raises(ResultError, match=f"{COLLOCATED}: 'conc_8.json' is not a level"):
        read_results([folder])


def test_two_files_of_one_level_are_refused(tmp_path, write_folder, level_content):
    content = level_content(rate=2.0)
    folder = write_folder(tmp_path, COLLOCATED, {"rr2.json": content, "conc4_rr2.json": content})
    with pytest.raises(ResultError, match=r"conc4_rr2\.json and rr2\.json are the same level"):
        read_results([folder])


def test_a_folder_given_twice_is_refused(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, COLLOCATED, {"conc4.json": level_content()})
    with pytest.raises(ResultError, match="given 2 times"):
        read_results([folder, f"{folder}/../{COLLOCATED}"])


def test_a_level_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / COLLOCATED / "conc4.json").mkdir(parents=True)
    with pytest.raises(ResultError, match=r"conc4\.json: is a folder, not a file"):
        read_results([tmp_path / COLLOCATED])


# -- provenance and types --


def test_provenance_is_the_manifests(tmp_path, write_folder, level_content, make_manifest):
    manifest = make_manifest().model_copy(update={"as_published": True})
    manifest.deployment.repository.commit, manifest.deployment.repository.dirty = "abc", True
    manifest.deployment.machines[0].versions.update(vllm="0.29.0", ray="2.60.0", nixl=None)
    row = read_results([with_manifest(tmp_path, write_folder, level_content, manifest)]).iloc[0]
    reported = row[["commit", "vllm", "ray", "nixl", "as_published", "date"]]
    assert list(reported) == ["abc-dirty", "0.29.0", "2.60.0", "", True, "20251021-000022"]


def test_types_are_fixed_whatever_the_folders_hold(tmp_path, write_folder, level_content):
    one_token = write_folder(tmp_path, "tiny_itl100_otl1_mixed_2xtp1", {"conc4.json": level_content(osl=1, duration=2)})
    detailed = write_folder(tmp_path, COLLOCATED, {"conc4.json": level_content(detailed=True)})
    types = [read_results(folders).dtypes for folders in ([one_token], [detailed], [one_token, detailed])]
    assert types[0].equals(types[1]) and types[0].equals(types[2])
    assert {str(kind) for kind in types[0]} == {"str", "int64", "float64", "bool"}
    assert types[0][["gpus", "level", "as_published", "date"]].astype(str).to_list() == ["int64", "float64", "bool", "str"]


# -- the public study --


@pytest.mark.parametrize(("part", "folders"), [("bm_results", 12), ("archive", 51)])
def test_every_published_folder_is_read(published, part, folders):
    table = read_results(sorted((published / part).iterdir()))
    assert table["folder"].nunique() == table["arm"].nunique() == folders
    assert len(table) == len(list((published / part).glob("*/*.json")))
    one_token = (table["phase"] == "prefill-only") | (table["osl"] == 1)
    assert one_token.equals(table["median_tpot_ms"].isna())


def test_published_numbers(published):
    names = ["baseline_2xtp4", "pd_p1xtp2-d1xtp2", "spread_srd_1xtp4-1xtp4"]
    folders = [published / "bm_results" / f"gptoss_itl5000_otl250_mixed_{name}" for name in names]
    table = read_results(folders)
    rows = table[table["level"] == 4].set_index("arm")
    assert list(rows.index) == ["2xtp4", "p1xtp2-d1xtp2", "p1xtp4-d1xtp4 spread"]
    # (100000 + 5000) tokens in 7.752615866999804 s on 8 GPUs, a whole node
    assert rows.loc["2xtp4", "total_throughput"] == pytest.approx(13543.815636080793)
    assert rows.loc["2xtp4", "total_throughput_per_node"] == pytest.approx(13543.815636080793)
    assert rows.loc["2xtp4", "interactivity"] == pytest.approx(1000 / 5.367349182731221)
    assert rows.loc["2xtp4", "chunk_latency_ms"] == pytest.approx(144.75281749969326 + 15 * 5.367349182731221)
    # 4 of the node's 8 GPUs: twice
    pd = rows.loc["p1xtp2-d1xtp2"]
    assert pd["gpus"] == 4
    assert pd["input_throughput_per_node"] == pytest.approx(2 * 100_000 / pd["duration"])


def test_published_request_rates_are_not_taken_for_concurrencies(published):
    table = read_results([published / "archive" / "gptoss_itl10000_otl500_8xtp1"])
    assert set(table["kind"]) == {"request-rate"}
    assert list(table["level"]) == [1, 2, 4, 8, 16]


DECODE = "tiny_itl100_otl4_decode-only_2xtp1"


@pytest.fixture
def decode_folder(tmp_path, write_folder, level_content, make_manifest):
    """Two requests of 4 tokens, sent at once; the second is admitted while the first decodes."""
    content = level_content(
        requests=2, concurrency=2, osl=4, detailed=True, start_times=[0.0, 0.0], ttfts=[1.0, 1.5],
        itls=[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]],
    )  # fmt: skip
    folder = write_folder(tmp_path, DECODE, {"conc2.json": content})
    make_manifest("2xtp1", "collocated", osl=4, phase="decode-only", decode_bench=True, gpus=2).write(folder)
    return folder


def test_of_filled_kv_caches_only_decode_steps_count(decode_folder):
    """Both decode from 1.5 to 2 s: gaps of .25 in it, and 2 tokens of each."""
    row = read_results([decode_folder]).iloc[0]
    assert row["median_tpot_ms"] == row["p99_itl_ms"] == 250 and row["output_throughput"] == 8
    assert row[["median_ttft_ms", "p90_ttft_ms", "input_throughput", "total_throughput"]].isna().all()


def test_decode_alone_is_drawn_by_output_tokens(decode_folder):
    from pdbench.output import figures

    table = read_results([decode_folder])
    figures.draw(table, figures.View(throughput="output"))
    with pytest.raises(ResultError, match="decode alone has no input throughput: use --throughput-metric output"):
        figures.draw(table, figures.View(throughput="input"))


def test_throughput_per_node_is_of_nodes_of_one_size(tmp_path, write_folder, level_content, make_manifest):
    """Two Ray nodes of one GPU each, and one of two: the same throughput is the same."""
    paths = []
    for name, per_node in (("2xtp1", 1), ("2xtp1-b", 2)):
        folder = write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{name}", {"conc4.json": level_content()})
        make_manifest(layout="2xtp1", mode="collocated", gpus_per_node=per_node).write(folder)
        paths.append(folder)
    table = read_results(paths)
    assert table["gpus_per_node"].to_list() == [2, 2] and table["input_throughput_per_node"].nunique() == 1
    assert table["input_throughput_per_node"][0] == table["input_throughput"][0], "a node holds the layout"
    assert read_results(paths, gpus_per_node=4)["gpus_per_node"].to_list() == [4, 4]
    assert read_results(paths[:1])["gpus_per_node"].to_list() == [1]


def test_an_arm_whose_ratio_a_controller_moved_is_not_called_by_one_ratio_alone(
    tmp_path, write_folder, level_content, make_manifest
):
    """The manifest's layout is that of the moment."""
    bounds = {"ttft_ms": 1.0, "tpot_ms": 1.0, "tick_s": 1.0}
    for name, controller in (("fixed", None), ("moved", bounds)):
        folder = write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{name}_p1xtp1-d2xtp1", {"conc4.json": level_content()})
        make_manifest("p1xtp1-d2xtp1", "pd-pool", gpus=3, controller=controller).write(folder)
    arms = read_results(sorted(tmp_path.iterdir()))["arm"].tolist()
    assert arms == ["p1xtp1-d2xtp1 pool", "p1xtp1-d2xtp1 controlled pool"]


@pytest.mark.parametrize(
    ("sizes", "accelerators", "words"),
    [([1], ["H200"], "1 GPU"), ([8], ["H100"], "8 GPUs"), ([1, 2], ["CPU"], "1 or 2 CPU cores"), ([1], ["CPU"], "1 CPU core")],
)
def test_a_node_in_words(sizes, accelerators, words):
    table = pd.DataFrame({"gpus_per_node": sizes, "accelerator": accelerators * len(sizes)})
    assert node_words(table) == words and unit_words(table) in ("GPUs", "CPU cores")
