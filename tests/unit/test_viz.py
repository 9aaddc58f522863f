"""viz.py as it is called: what it prints and writes, and one line for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import viz
from pdbench.output import options
from pdbench.output.grid import show
from pdbench.read.results import read_results

ROOT = Path(viz.__file__).parent
COLLOCATED = "tiny_itl100_otl11_mixed_2xtp1"
PD = "tiny_itl100_otl11_mixed_pack_1xtp1-1xtp2"


@pytest.fixture
def folders(tmp_path, monkeypatch, write_folder, level_content):
    """Two good folders, in an empty working directory beside them."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    levels = {name: {f"conc{k}.json": level_content(k, label=name) for k in (4, 8)} for name in (COLLOCATED, PD)}
    return [str(write_folder(tmp_path, name, of_arm)) for name, of_arm in levels.items()]


def test_draws_by_default_and_says_where_and_what(folders, capsys):
    viz.main(["--exps", *folders])
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir() == ["figure.png"]
    out = capsys.readouterr().out
    assert "figure.png: 2 arms, 4 measurements" in out
    assert "y: Input tokens/s per node of 8 GPUs = tokens / duration x 8 GPUs" in out
    assert "/ those of the layout (2 or 3)" in out
    assert "x: Median TPOT (ms)" in out


def test_folders_may_be_given_in_several_options(folders, capsys):
    viz.main(["--exps", folders[0], "--exps", folders[1]])
    assert "2 arms" in capsys.readouterr().out


def test_tables_alone_draw_nothing(folders, capsys):
    viz.main(["--show-tables", "--exps", *folders])
    assert os.listdir() == []
    out = capsys.readouterr().out
    assert "input, output and total tokens/s per node of 8 GPUs" in out
    rows = [line.split() for line in out.splitlines() if line.lstrip().startswith("2xtp1")]
    # arm, GPUs, concurrency, repeat, done; TTFT, p99, TPOT, p99, ITL p99, first 16, per user; tokens/s
    assert rows[0] == [
        *("2xtp1", "2", "4", "1", "20"),
        *("50", "150", "10", "30", "27", "200", "100"),
        *("4,000", "440", "4,440"),
    ]
    assert rows[1][:3] == ["2xtp1", "2", "8"]


def test_a_narrow_terminal_cuts_no_number(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    viz.main(["--show-tables", "--exps", *folders])
    out = capsys.readouterr().out
    assert "4,440" in out and "…" not in out


def test_tables_and_figure(folders, capsys):
    viz.main(["--show-tables", "--plot", "--exps", *folders])
    assert os.listdir() == ["figure.png"]
    assert "4,440" in capsys.readouterr().out


def test_a_plot_path_is_a_wish_for_a_plot(folders, capsys):
    viz.main(["--show-tables", "--plot-path", "a.svg", "--exps", *folders])
    assert os.listdir() == ["a.svg"]
    assert "a.svg: 2 arms" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "metric"), [*zip(options.LATENCY_MODES, options.THROUGHPUT_METRICS, strict=True)])
def test_every_choice_of_axes_draws(folders, capsys, mode, metric):
    viz.main(["--latency-mode", mode, "--throughput-metric", metric, "--exps", *folders])
    out = capsys.readouterr().out
    assert f"y: {metric.capitalize()} tokens/s" in out
    x = {"token": "x: Median TPOT", "first_token": "x: Median TTFT", "chunk": "first 16 tokens"}
    assert x[mode] in out


def test_flags_reach_the_figure(folders, monkeypatch):
    seen = []
    from pdbench.output import figures

    monkeypatch.setattr(figures, "draw", lambda table, view, study: seen.append((table, view)))
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    values = ["--latency-mode", "chunk", "--chunk-size", "4", "--throughput-metric", "total"]
    switches = ["--use-interactivity", "--no-use-normalized", "--log-latency", "--log-concurrency", "--per-gpu", "--show-itl"]
    viz.main([*values, *switches, "--exps", *folders])
    table, view = seen[0]
    named = {"per_gpu": True, "targets": options.targets("tpot,max_itl")}
    assert view == figures.View("chunk", 4, True, False, "total", True, True, "p99", **named)
    assert table["chunk_latency_ms"].iloc[0] == 50 + 3 * 10


def test_the_name_that_older_recipes_use_is_accepted_but_not_shown():
    parser = options.build_parser()
    assert parser.parse_args(["--exps", "x", "--itl"]).show_itl
    assert "--show-itl" in parser.format_help() and " --itl" not in parser.format_help()


def test_a_figure_asked_for_is_drawn_beside_tables(folders, capsys):
    viz.main(["--show-tables", "--figure", "heatmap", "--sla", "tpot=50", "--exps", *folders])
    assert os.listdir() == ["figure.png"]
    out = capsys.readouterr().out
    assert "y: Input tokens/s per node" in out and "x:" not in out


def test_the_level_reaches_the_figure(folders, capsys, write_folder, level_content):
    detailed = {f"conc{k}.json": level_content(k, detailed=True) for k in (4, 8)}
    folder = str(write_folder("..", "tiny_itl100_otl11_mixed_4xtp1", detailed))
    viz.main(["--figure", "timeline", "--level", "4", "--plot-path", "a.svg", "--exps", folder])
    assert "a.svg: 1 arms, 2 measurements" in capsys.readouterr().out
    assert "was not measured at concurrency 16: it has 4, 8" in fails(
        capsys, "--figure", "timeline", "--level", "16", "--exps", folder
    )


def test_figures_are_those_of_the_library():
    from pdbench.output import figures

    assert tuple(figures.FIGURES) == options.FIGURES


def test_gpus_per_node_changes_the_denominator(folders, capsys):
    viz.main(["--gpus-per-node", "2", "--show-tables", "--exps", folders[0]])
    out = capsys.readouterr().out
    assert "per node of 2 GPUs" in out and "1,000" in out and "4,000" not in out


def test_arms_without_tpot_are_named(folders, capsys, write_folder, level_content):
    one_token = write_folder("..", "tiny_itl100_otl1_mixed_1xtp1", {"conc4.json": level_content(osl=1)})
    viz.main(["--exps", folders[0], str(one_token)])
    assert "one output token per request, so no TPOT: 1xtp1 100:1" in capsys.readouterr().out


def test_the_audit_alone_draws_nothing(folders, capsys):
    """Folders hold the same levels, of 20 requests with the client's own seed, and PD has no manifest."""
    for name in ("conc4.json", "conc8.json"):
        Path(folders[1], name).write_bytes(Path(folders[0], name).read_bytes())
    viz.main(["--audit", "--exps", *folders])
    assert os.listdir() == []
    out = capsys.readouterr().out
    shown = ("2xtp1 (2 GPUs) and p1xtp1-d1xtp2 (3 GPUs)", "conc8 100%", "conc4 20, conc8 20", "PD without a manifest")
    assert all(words in " ".join(out.split()) for words in (*shown, "to do: send more requests", "findings: 4, on 2 folders"))


def test_details_are_checked_unasked_where_that_takes_a_moment(tmp_path, monkeypatch, write_folder, level_content, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = level_content(detailed=True) | {"median_ttft_ms": 1.0}
    folder = str(write_folder(tmp_path, COLLOCATED, {"conc4.json": wrong}))
    with pytest.raises(SystemExit):
        viz.main(["--show-tables", "--exps", folder])
    assert "median_ttft_ms is 1, but by the requests' own times it is 50" in capsys.readouterr().err
    monkeypatch.setattr("pdbench.read.folder.SMALL", 10)
    viz.main(["--show-tables", "--exps", folder])
    assert "details of single requests are not checked (--audit does)" in capsys.readouterr().err


def test_a_folder_that_lost_its_manifest_is_named_with_the_node_assumed(
    tmp_path, monkeypatch, write_folder, level_content, make_manifest, capsys
):
    monkeypatch.chdir(tmp_path)
    folders = [str(write_folder(tmp_path, name, {"conc4.json": level_content(seed=name)})) for name in (COLLOCATED, PD)]
    make_manifest("2xtp1", "collocated").write(Path(folders[0]))
    viz.main(["--show-tables", "--exps", *folders])
    assert f"no manifest: nodes of 8 GPUs are assumed (--gpus-per-node gives another number): {folders[1]}\n" in (
        capsys.readouterr().err
    )
    viz.main(["--show-tables", "--exps", *folders, "--gpus-per-node", "4"])
    viz.main(["--show-tables", "--exps", folders[1]])
    assert "no manifest" not in capsys.readouterr().err, "nothing is assumed, and where none has one all are alike"


def test_cells_of_wide_letters_stay_in_their_columns(capsys):
    show(["arm", "a\nb"], [["模型", "1"], ["model", "1,000"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["", "            a", " arm        b", " ─────────────", " 模型       1", " model  1,000", ""]


# -- the table as a file --


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_export_keeps_every_value_and_type(folders, capsys, suffix):
    viz.main(["--export", f"table{suffix}", "--exps", *folders])
    assert os.listdir() == [f"table{suffix}"]
    assert f"table{suffix}: 4 rows" in capsys.readouterr().out
    table = read_results(folders)
    types = table.dtypes.to_dict()
    if suffix == ".parquet":
        found = pd.read_parquet("table.parquet")
    elif suffix == ".json":
        found = pd.DataFrame(json.loads(Path("table.json").read_text())).astype(types)
    else:
        found = pd.read_csv("table.csv", keep_default_na=False, na_values={c: [""] for c in table.select_dtypes("number")})
        found = found.astype(types)
    pd.testing.assert_frame_equal(found, table, check_exact=True)


def test_an_export_that_cannot_be_written_is_one_line(folders, capsys, monkeypatch):
    def no_space(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    assert "t.csv: No space left on device" in fails(capsys, "--export", "t.csv", "--exps", *folders)


def test_parquet_without_pyarrow_is_one_line(folders, capsys, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert "'t.parquet' needs pyarrow: pip install pyarrow" in fails(capsys, "--export", "t.parquet", "--exps", *folders)


# -- mistakes --


def fails(capsys, *argv):
    """The one line that a call ends with, after exit code 2 and with nothing written."""
    before = sorted(os.listdir())
    with pytest.raises(SystemExit) as caught:
        viz.main(list(argv))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and sorted(os.listdir()) == before
    assert err.startswith("viz.py: error: ") and err.endswith("\n") and len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (["--chunk-size", "0"], "--chunk-size: '0' is not a whole number of at least 1"),
        (["--chunk-size", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["--gpus-per-node", "-8"], "--gpus-per-node: '-8' is not a whole number of at least 1"),
        (["--plot-path", "a.jpg"], "--plot-path: 'a.jpg' must end in .png, .pdf, .svg"),
        (["--export", "a.xlsx"], "--export: 'a.xlsx' must end in .csv, .json, .parquet"),
        (["--export", "none/a.csv"], "--export: 'none/a.csv': there is no folder 'none'"),
        (["--gpu-hour-price", "0"], "--gpu-hour-price: '0' is not a number above 0"),
        (["--gpu-hour-price", "five"], "--gpu-hour-price: 'five' is not a number above 0"),
        (["--plot-path", "none/a.png"], "'none/a.png': there is no folder 'none'"),
        (["--level", "0"], "--level: '0' is not a number above 0"),
        (["--figure", "heatmap"], "--figure heatmap needs --sla, such as --sla tpot=10,ttft=500"),
        (["--figure", "latencies"], "conc8.json holds no per-request details"),
        (["--log"], "unrecognized arguments: --log"),
        (["--plot-everything"], "unrecognized arguments: --plot-everything"),
    ],
)
def test_wrong_flags(folders, capsys, flags, reported):
    assert reported in fails(capsys, "--exps", *folders, *flags)


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (["--level", "8", "--sla", "tpot=10"], "--level goes with --figure latencies, timeline or shift"),
        (["--show-itl", "max", "--figure", "tradeoff"], "--show-itl goes with --figure classic"),
        (["--itl", "--show-tables"], "--show-itl goes with --figure classic"),
        (["--log-concurrency", "--report", "a.html"], "--log-concurrency goes with --figure classic"),
        (["--log-latency", "--audit"], "--log-latency goes with --figure classic, tradeoff or latencies, and with --report"),
        (["--most-arms", "15", "--show-decision"],
         "--most-arms goes with --figure classic, tradeoff, network or latencies, and with --report"),
        (["--no-use-normalized", "--show-blocks"],
         "--no-use-normalized goes with --figure classic, tradeoff, targets, heatmap, network or latencies, and with "
         "--show-tables, --show-decision, --sla, --json or --report"),
        (["--use-normalized", "--show-stalls"], "--use-normalized goes with --figure classic"),
        (["--targets", "tpot,ttft", "--report", "a.html"], "--targets goes with --figure targets"),
        (["--throughput-metric", "input", "--figure", "lengths"], "--throughput-metric goes with --figure classic"),
        (["--latency-mode", "token", "--show-tables"], "--latency-mode goes with --figure classic"),
        (["--use-interactivity", "--json", "a.json"],
         "--use-interactivity goes with --figure classic or tradeoff, and with --show-decision, --sla or --report"),
        (["--chunk-size", "8", "--show-decision"],
         "--chunk-size goes with --latency-mode chunk, --targets chunk,LATENCY, --sla chunk=MS, --show-tables, --export or "
         "--report"),
        (["--include-refuted", "--show-tables"],
         "--include-refuted goes with --plot, and with what compares arms, such as --show-decision"),
        (["--latency-mode", "chunk", "--figure", "shift", "--sla", "ttft=9", "--json", "a.json"], "--latency-mode goes with"),
    ],
)  # fmt: skip
def test_an_option_that_nothing_asked_for_uses_is_refused(folders, capsys, flags, reported):
    assert f"viz.py: error: {reported}" in fails(capsys, "--exps", *folders, *flags)


@pytest.mark.parametrize(
    "flags",
    [["--log-concurrency"], ["--show-itl", "--plot", "--show-tables"], ["--chunk-size", "8", "--sla", "chunk=9"],
     ["--level", "8", "--figure", "timeline"], ["--most-arms", "2", "--report", "a.html"], ["--include-refuted", "--plot"],
     ["--no-use-normalized", "--show-tables"], ["--latency-mode", "chunk", "--json", "a.json"]],
)  # fmt: skip
def test_an_option_is_taken_where_one_of_several_things_asked_for_uses_it(flags):
    options.build_parser().parse_args(["--exps", "a", *flags])


def test_what_is_not_given_has_its_default():
    args = options.build_parser().parse_args(["--exps", "a", "--show-tables"])
    assert (args.latency_mode, args.chunk_size, args.use_normalized, args.level) == ("token", 16, True, None)
    assert (args.throughput_metric, args.most_arms, args.show_itl) == ("input", options.MOST_ARMS, None)


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--latency-mode", options.LATENCY_MODES),
        ("--throughput-metric", options.THROUGHPUT_METRICS),
        ("--figure", options.FIGURES),
    ],
)
def test_a_wrong_choice_is_reported_the_right_ones(folders, capsys, flag, allowed):
    error = fails(capsys, "--exps", *folders, flag, "best")
    assert all(word in error for word in (flag, "'best'", *allowed))


def test_no_folder_given(capsys):
    assert "required: --exps" in fails(capsys)
    assert "--exps: expected at least one argument" in fails(capsys, "--exps")


def test_a_plot_path_that_is_a_folder(folders, capsys):
    os.mkdir("a.png")
    assert "'a.png' is a folder" in fails(capsys, "--plot-path", "a.png", "--exps", *folders)


@pytest.mark.parametrize(
    ("name", "levels", "reported"),
    [
        ("tiny_itl100_otl11_mixed_1xtp1", None, "tiny_itl100_otl11_mixed_1xtp1: no such folder"),
        ("tiny_itl100_otl11_mixed_1xtp1", {}, "tiny_itl100_otl11_mixed_1xtp1: holds no level"),
        ("tiny_itl100_otl11_mixed_1xtp1", {"conc4.json": '{"completed": 20'}, "conc4.json: not whole JSON"),
        ("tiny_itl100_otl11_mixed_1xtp1", {"conc4.json": "{}"}, "conc4.json: num_prompts is missing"),
        ("mine", {"conc4.json": "{}"}, "'mine' is not a result folder"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(folders, capsys, write_folder, name, levels, reported):
    if levels is not None:
        write_folder("..", name, levels)
    assert reported in fails(capsys, "--exps", *folders, f"../{name}")


def test_mixed_kinds_of_load(folders, capsys, write_folder, level_content):
    rates = write_folder("..", "tiny_itl100_otl11_mixed_1xtp1", {"rr2.json": level_content(rate=2)})
    assert "cannot share one figure" in fails(capsys, "--exps", *folders, str(rates))


def test_no_tpot_at_all(folders, capsys, write_folder, level_content):
    one_token = write_folder("..", "tiny_itl100_otl1_mixed_1xtp1", {"conc4.json": level_content(osl=1)})
    assert "use --latency-mode first_token" in fails(capsys, "--exps", str(one_token))


# -- what it needs --


def loaded_by(*argv):
    """Top-level modules that a run of viz.py loads."""
    code = "import sys, viz\ntry: viz.main(sys.argv[1:])\nexcept SystemExit: pass\nprint(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code, *argv], env=environment, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_needs_neither_ray_nor_vllm_nor_a_display(folders):
    modules = loaded_by("--show-tables", "--plot", "--exps", *folders)
    assert {"pandas", "matplotlib.figure", "rich.cells"} <= modules
    assert not modules & {"ray", "vllm", "torch", "yaml", "matplotlib.pyplot", "tkinter"}


def test_help_and_wrong_flags_answer_before_anything_heavy_is_loaded():
    for argv in (["--help"], ["--exps", "x", "--chunk-size", "0"]):
        assert not loaded_by(*argv) & {"pandas", "numpy", "matplotlib", "rich", "pydantic"}


def test_published_results_are_drawn(published, tmp_path, capsys):
    exps = sorted(str(folder) for folder in (published / "bm_results").iterdir())
    viz.main(["--plot-path", str(tmp_path / "a.png"), "--exps", *exps])
    assert "12 arms, 72 measurements" in capsys.readouterr().out
