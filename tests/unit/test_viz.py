"""viz.py as it is called: what it prints and writes, and one line for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import viz

ROOT = Path(viz.__file__).parent
COLLOCATED = "tiny_itl100_otl11_mixed_2xtp1"
PD = "tiny_itl100_otl11_mixed_pack_1xtp1-1xtp2"


@pytest.fixture
def folders(tmp_path, monkeypatch, write_folder, level_content):
    """Two good folders, in an empty working directory beside them."""
    levels = {f"conc{k}.json": level_content(k) for k in (4, 8)}
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return [str(write_folder(tmp_path, name, levels)) for name in (COLLOCATED, PD)]


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


@pytest.mark.parametrize(("mode", "metric"), [*zip(viz.LATENCY_MODES, viz.THROUGHPUT_METRICS, strict=True)])
def test_every_choice_of_axes_draws(folders, capsys, mode, metric):
    viz.main(["--latency-mode", mode, "--throughput-metric", metric, "--exps", *folders])
    out = capsys.readouterr().out
    assert f"y: {metric.capitalize()} tokens/s" in out
    x = {"token": "x: Median TPOT", "first_token": "x: Median TTFT", "chunk": "first 16 tokens"}
    assert x[mode] in out


def test_flags_reach_the_figure(folders, monkeypatch):
    seen = []
    from pdbench import figures

    monkeypatch.setattr(figures, "draw", lambda table, view: seen.append((table, view)))
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    values = ["--latency-mode", "chunk", "--chunk-size", "4", "--throughput-metric", "total"]
    switches = ["--use-interactivity", "--no-use-normalized", "--log-latency", "--log-concurrency", "--itl"]
    viz.main([*values, *switches, "--exps", *folders])
    table, view = seen[0]
    assert view == figures.View("chunk", 4, True, False, "total", True, True, True)
    assert table["chunk_latency_ms"].iloc[0] == 50 + 3 * 10


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
    from pdbench import figures

    assert tuple(figures.FIGURES) == viz.FIGURES


def test_gpus_per_node_changes_the_denominator(folders, capsys):
    viz.main(["--gpus-per-node", "2", "--show-tables", "--exps", folders[0]])
    out = capsys.readouterr().out
    assert "per node of 2 GPUs" in out and "1,000" in out and "4,000" not in out


def test_arms_without_tpot_are_named(folders, capsys, write_folder, level_content):
    one_token = write_folder("..", "tiny_itl100_otl1_mixed_1xtp1", {"conc4.json": level_content(osl=1)})
    viz.main(["--exps", folders[0], str(one_token)])
    assert "one output token per request, so no TPOT: 1xtp1 100:1" in capsys.readouterr().out


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
    ("flags", "told"),
    [
        (["--chunk-size", "0"], "--chunk-size: '0' is not a whole number of at least 1"),
        (["--chunk-size", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["--gpus-per-node", "-8"], "--gpus-per-node: '-8' is not a whole number of at least 1"),
        (["--plot-path", "a.jpg"], "--plot-path: 'a.jpg' must end in .png, .pdf, .svg"),
        (["--plot-path", "none/a.png"], "'none/a.png': there is no folder 'none'"),
        (["--level", "0"], "--level: '0' is not a number above 0"),
        (["--figure", "heatmap"], "--figure heatmap needs --sla, such as --sla tpot=10,ttft=500"),
        (["--figure", "latencies"], "conc8.json holds no per-request details"),
        (["--log"], "unrecognized arguments: --log"),
        (["--plot-everything"], "unrecognized arguments: --plot-everything"),
    ],
)
def test_wrong_flags(folders, capsys, flags, told):
    assert told in fails(capsys, "--exps", *folders, *flags)


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [("--latency-mode", viz.LATENCY_MODES), ("--throughput-metric", viz.THROUGHPUT_METRICS), ("--figure", viz.FIGURES)],
)
def test_a_wrong_choice_is_told_the_right_ones(folders, capsys, flag, allowed):
    error = fails(capsys, "--exps", *folders, flag, "best")
    assert all(word in error for word in (flag, "'best'", *allowed))


def test_no_folder_given(capsys):
    assert "required: --exps" in fails(capsys)
    assert "--exps: expected at least one argument" in fails(capsys, "--exps")


def test_a_plot_path_that_is_a_folder(folders, capsys):
    os.mkdir("a.png")
    assert "'a.png' is a folder" in fails(capsys, "--plot-path", "a.png", "--exps", *folders)


@pytest.mark.parametrize(
    ("name", "levels", "told"),
    [
        ("tiny_itl100_otl11_mixed_1xtp1", None, "tiny_itl100_otl11_mixed_1xtp1: no such folder"),
        ("tiny_itl100_otl11_mixed_1xtp1", {}, "tiny_itl100_otl11_mixed_1xtp1: holds no level"),
        ("tiny_itl100_otl11_mixed_1xtp1", {"conc4.json": '{"completed": 20'}, "conc4.json: not whole JSON"),
        ("tiny_itl100_otl11_mixed_1xtp1", {"conc4.json": "{}"}, "conc4.json: num_prompts is missing"),
        ("mine", {"conc4.json": "{}"}, "'mine' is not a result folder"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(folders, capsys, write_folder, name, levels, told):
    if levels is not None:
        write_folder("..", name, levels)
    assert told in fails(capsys, "--exps", *folders, f"../{name}")


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
    run = subprocess.run(
        [sys.executable, "-c", code, *argv], env=environment, capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split())


def test_needs_neither_ray_nor_vllm_nor_a_display(folders):
    modules = loaded_by("--show-tables", "--plot", "--exps", *folders)
    assert {"pandas", "matplotlib.figure", "rich.table"} <= modules
    assert not modules & {"ray", "vllm", "torch", "yaml", "matplotlib.pyplot", "tkinter"}


def test_help_and_wrong_flags_answer_before_anything_heavy_is_loaded():
    for argv in (["--help"], ["--exps", "x", "--chunk-size", "0"]):
        assert not loaded_by(*argv) & {"pandas", "numpy", "matplotlib", "rich", "pydantic"}


def test_published_results_are_drawn(published, tmp_path, capsys):
    exps = sorted(str(folder) for folder in (published / "bm_results").iterdir())
    viz.main(["--plot-path", str(tmp_path / "a.png"), "--exps", *exps])
    assert "12 arms, 72 measurements" in capsys.readouterr().out
