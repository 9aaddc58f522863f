"""reproduce_published.sh: which folders go into which figure, wherever they lie, and one line for each mistake."""

import os
import subprocess
import sys

import pytest

from pdbench.configs import ROOT

SCRIPT = ROOT / "reproduce_published.sh"
NAMES = ("baseline_4xtp2", "baseline_2xtp4", "8xtp1", "1xtp8", "2xtp2-2xtp2", "spread_tcp_p1xtp4-d1xtp4")


@pytest.fixture
def run(tmp_path):
    """Calls the script with a Python that only says what it was asked for."""
    python = tmp_path / "python"
    # All folders can be read, and each command says what a verdict looks like.
    python.write_text(
        '#!/usr/bin/env bash\n[[ $1 == - ]] && { shift; printf "%s\\n" "$@"; exit; }\n'
        'printf "%s\\n" "$*" >>"$ASKED"\necho "HOLDS one: claim"\necho last line\n'
    )
    python.chmod(0o755)

    def call(*argv):
        environment = os.environ | {"PYTHON": str(python), "ASKED": str(tmp_path / "asked")}
        return subprocess.run([SCRIPT, *argv], env=environment, cwd=tmp_path, capture_output=True, text=True)

    return call


def test_figures_audit_and_claims_of_folders_wherever_they_lie(run, tmp_path):
    for i, name in enumerate(NAMES):
        (tmp_path / "clone" / f"place{i}" / f"gptoss_itl5000_otl250_mixed_{name}").mkdir(parents=True)
    done = run("clone", "out")
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    baselines = next(line for line in asked if "1_tp_baselines" in line)
    found = [word.rsplit("/gptoss_itl5000_otl250_mixed_")[1] for word in baselines.split() if "gptoss" in word]
    assert found == ["8xtp1", "baseline_4xtp2", "baseline_2xtp4", "1xtp8"] and "--plot-path out/" in baselines
    assert "3_network.png: no folder for spread_srd_1xtp4-1xtp4, left out" in done.stderr
    assert sum("--audit" in line for line in asked) == 1 and asked[-1].endswith("--json out/claims.json")
    assert "out/claims.txt: last line" in done.stdout and "HOLDS one: claim" in done.stdout
    assert (tmp_path / "out/audit.txt").read_text().endswith("last line\n")


def test_folders_that_cannot_be_read_are_named_and_left_out(write_folder, level_content, tmp_path):
    good = {f"conc{c}.json": level_content(concurrency=c, requests=5 * c, isl=5000, osl=250) for c in (4, 8)}
    for name in ("8xtp1", "1xtp4-1xtpep4"):
        write_folder(tmp_path / "clone", f"gptoss_itl5000_otl250_mixed_{name}", good)
    (tmp_path / "clone/gptoss_itl5000_otl250_mixed_1xtp8").mkdir()
    run = subprocess.run([SCRIPT, "clone", "out"], cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable},
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stderr
    left_out = [line for line in run.stderr.splitlines() if line.startswith("reproduce_published: left out: ")]
    assert ["1xtp4-1xtpep4: " in left_out[0], "1xtp8: holds no level" in left_out[1], len(left_out)] == [True, True, 2]
    assert (tmp_path / "out/1_tp_baselines.png").is_file() and "on 1 folder" in (tmp_path / "out/audit.txt").read_text()


@pytest.mark.parametrize(
    ("argv", "reported"),
    [
        ((), "DIR is missing"),
        (("none",), "none: no such folder"),
        ((".",), ".: holds none of the study's result folders"),
        ((".", "out", "more"), "unexpected 'more'"),
    ],
)
def test_mistakes(run, tmp_path, argv, reported):
    before = sorted(os.listdir(tmp_path))
    done = run(*argv)
    assert done.returncode == 2 and reported in done.stderr and len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_help(run):
    assert "usage: ./reproduce_published.sh DIR [OUT]" in run("--help").stdout
