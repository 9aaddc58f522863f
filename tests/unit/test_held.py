"""A folder of result folders that was given in their place: what its error says to give."""

import re
import shlex
import sys
from glob import glob

import pytest

import plan
import viz
from pdbench.configs import ROOT
from pdbench.measure import gather
from pdbench.read import trim
from pdbench.read.held import held_words

HELD = re.compile(
    r"bm_results:? is no result folder, but holds \d+: give those of one experiment, such as (\S+) \(experiments: "
)


def of(root, *names, workload="tiny_itl100_otl11_mixed"):
    for name in names:
        (root / f"{workload}_{name}").mkdir(parents=True)
    return held_words(root)


def refusal(capsys, call):
    """The one line that a call ends with."""
    try:
        assert call() == 2
    except SystemExit as ended:
        assert ended.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("command", ["viz", "plan", "trim", "gather"])
def test_what_takes_result_folders_says_how_to_give_those_of_a_folder(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "bm_results").symlink_to(ROOT / "bm_results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command, "bm_results"])
    calls = {"viz": lambda: viz.main(["--exps", "bm_results"]), "trim": trim.main, "gather": gather.main,
             "plan": lambda: plan.main(["fit", "bm_results", "-o", "model.json"])}  # fmt: skip
    (pattern,) = HELD.findall(refusal(capsys, calls[command]))
    if command == "viz":
        viz.main(["--show-decision", "--exps", *glob(pattern)])
        assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["x_2xtp1", "x_pack_p1xtp1-d1xtp1", "x_y_2xtp1", "x_y_1xtp2"], "such as {}/*_x_y_*"),
        (["pool_2xtp1", "pool_pool_p1xtp1-d1xtp1", "pool_bare_2xtp1"], "such as {}/*_pool_*"),
        (["b_2xtp1", "b_1xtp2", "a_2xtp1", "a_1xtp2", "c_1xtp1"], "such as {}/*_a_* (experiments: a, b)"),
        (["2xtp1", "pack_p1xtp1-d1xtp1"], "give {}/*, or some of them"),
        (["x_2xtp1"], "holds 1: give {}/*, or some of them"),
    ],
)
def test_only_experiments_whose_pattern_matches_what_can_be_compared_are_named(names, words, tmp_path):
    assert of(tmp_path / "here", *names).endswith(words.format(tmp_path / "here"))


def test_of_many_experiments_the_first_are_named(tmp_path):
    names = [f"{name}_{layout}" for name in "abcde" for layout in ("2xtp1", "1xtp2")]
    assert of(tmp_path / "here", *names).endswith("/*_a_* (experiments: a, b, c and 2 more)")


def test_experiments_of_several_workloads_or_of_load_that_shifts_are_not_named(tmp_path):
    of(tmp_path, "a_2xtp1", "a_1xtp2", "b_2xtp1", "b_1xtp2")
    of(tmp_path, "c_2xtp1", "c_1xtp2", workload="tiny_itl100_otl11_shift")
    assert of(tmp_path, "a_1xtp2", workload="tiny_itl200_otl11_mixed").endswith(f"such as {tmp_path}/*_b_*")


def test_a_path_with_a_blank_is_quoted_so_that_the_shell_takes_it(tmp_path):
    words = of(tmp_path / "a b", "x_2xtp1", "x_1xtp2")
    assert shlex.split(words.split("such as ")[1]) == [f"{tmp_path}/a b/*_x_*"]


def test_a_folder_that_holds_none_is_refused_by_its_name(tmp_path, capsys):
    (tmp_path / "docs" / "more").mkdir(parents=True)
    line = refusal(capsys, lambda: viz.main(["--exps", str(tmp_path / "docs")]))
    assert line.endswith("'docs' is not a result folder: expected {model}_itl{ISL}_otl{OSL}_{phase}_{name}\n")
