"""Runs whose routers ask replicas for their loads each time: predicted as such, and what is predicted from a fit to them."""

import json
import shutil

import pytest

import plan
from pdbench.configs import ROOT
from pdbench.manifest import REMEMBERS

PAIR = "gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_"
IN_BLOCK = {
    "2xtp1_step8192": 0.052,
    "2xtp1_step1024": 0.015,
    "2xtp1_step512": 0.018,
    "1xtp2_step1024": 0.060,
    "1xtp2_step2048": 0.047,
    "pack_p1xtp1-d1xtp1": 0.037,
}


@pytest.fixture(scope="module")
def of_the_pair(tmp_path_factory):
    """A fit to three layouts on two H200s whose routers remember loads."""
    path = tmp_path_factory.mktemp("fit") / "pair.json"
    arms = ("2xtp1", "1xtp2", "pack_p1xtp1-d1xtp1")
    plan.main(["fit", *(str(ROOT / f"bm_results/{PAIR}120b_{arm}") for arm in arms), "-o", str(path)])
    return path


def test_arms_whose_routers_ask_each_time_are_predicted_as_such(of_the_pair, tmp_path):
    """As docs/planner.md says: requests/s in later blocks, and the longest waits of collocated arms."""
    folders = [str(ROOT / f"bm_results/{PAIR}chunks_{arm}") for arm in IN_BLOCK]
    plan.main(["check", str(of_the_pair), *folders, "--json", str(tmp_path / "c.json")])
    runs = json.loads((tmp_path / "c.json").read_text())["runs"]
    for run in runs:
        (error,) = (error for arm, error in IN_BLOCK.items() if run["run"].endswith(arm))
        off = [row["request_throughput"] / row["request_throughput_measured"] - 1 for row in run["levels"]]
        assert len(off) == 4 and sum(map(abs, off)) / len(off) == pytest.approx(error, abs=0.003)
        waits = [row["max_itl_ms"] / row["max_itl_ms_measured"] for row in run["levels"] if row["level"] >= 8]
        assert "pack" in run["run"] or (min(waits) > 0.88 and max(waits) < 1.05)
    assert len(runs) == len(IN_BLOCK)


def test_routers_that_remember_for_another_time_are_refused(of_the_pair, tmp_path, capsys):
    folder = shutil.copytree(ROOT / f"bm_results/{PAIR}chunks_2xtp1_step8192", tmp_path / f"{PAIR}chunks_2xtp1_step8192")
    manifest = json.loads((folder / "manifest.json").read_text())
    for launch in (manifest["deployment"], *manifest["earlier"]):
        launch["serving_path"]["env"][REMEMBERS] = "3"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit):
        plan.main(["check", str(of_the_pair), str(folder)])
    printed = capsys.readouterr().err
    assert f"step8192: {REMEMBERS}: '3' is not simulated: 0 or 10 is" in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arms", "ingress", "asked"),
    [
        (["chunks_2xtp1_step8192"], 0, True),
        (["chunks_2xtp1_step8192", "chunks_pack_p1xtp1-d1xtp1"], 0, True),  # 1P:1D's routers remember, and have no choice
        (["120b_1xtp2", "chunks_pack_p1xtp1-d1xtp1"], 4, False),
        (["chunks_2xtp1_step8192", "120b_2xtp1"], 4, False),
    ],
)
def test_predictions_have_the_routers_of_the_runs_that_have_a_choice(tmp_path, capsys, arms, ingress, asked):
    path, folders = tmp_path / "m.json", [str(ROOT / f"bm_results/{PAIR}{arm}") for arm in arms]
    plan.main(["fit", *folders, "-o", str(path)])
    model = json.loads(path.read_text())
    assert (model["ingress"], model["asked"]) == (ingress, asked)
    assert ("predicted are routers that remember them" in capsys.readouterr().out) == ("120b_2xtp1" in arms)
    plan.main(["recommend", str(path), "--sla", "tpot=15", "--gpus", "2", "--extrapolate"])
    assert (f" --serve-env {REMEMBERS}=0 " in capsys.readouterr().out) == asked
    if asked:
        rows = {}
        for of in (model, model | {"asked": False}):
            path.write_text(json.dumps(of))
            plan.main(["predict", str(path), "--layouts", "2xtp1", "--levels", "8,16", "--json", str(tmp_path / "p.json")])
            rows[of["asked"]] = [
                row["request_throughput"] for row in json.loads((tmp_path / "p.json").read_text())["predictions"]
            ]
        at_8, at_16 = rows[True]
        assert at_16 == pytest.approx(4.53, rel=0.04), "as measured, the mean of two launches, which are 7% apart"
        assert at_8 == pytest.approx(3.28, rel=0.03), "as in the launch that shared evenly; in the other one had 61%"
        assert all(asked < known for asked, known in zip(rows[True], rows[False], strict=True))
