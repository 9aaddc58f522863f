"""What a claims file and check_claims.py take: tolerances in percent, one of several models; which run speaks for an arm."""

import json

import pytest

import check_claims
from pdbench.analysis import claims
from pdbench.analysis.claim_evidence import read_evidence
from pdbench.configs import ConfigError

CLAIM = {"id": "c", "says": "so", "rule": "order_by", "arms": ["1xtp2", "2xtp1"], "metric": "median_tpot_ms"}


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    """Writes a folder of level 4 with this median TPOT; `seed` is that of its prompts."""

    def write(name, tpot, model="tiny", date="20260101-000000", levels=(4,), seed=None, **more):
        given = {} if seed is None else {"seed": seed}
        files = {f"conc{k}.json": level_content(k, median_tpot_ms=tpot, date=date, **more) | given for k in levels}
        return write_folder(tmp_path / "results", f"{model}_itl100_otl11_mixed_{name}", files)

    return write


@pytest.fixture
def check(tmp_path, capsys):
    """Checks one claim from the command line; returns what was printed, and the verdict as JSON."""

    def run(claim=None, *args):
        (tmp_path / "c.yaml").write_text(json.dumps({"claims": [CLAIM | (claim or {})]}))
        out = tmp_path / "out.json"
        check_claims.main([str(tmp_path / "c.yaml"), "--results", str(tmp_path / "results"), "--json", str(out), *args])
        return capsys.readouterr().out, json.loads(out.read_text())[0]

    return run


@pytest.mark.parametrize(
    ("given", "share"), [("3%", 0.03), ("2.5 %", 0.025), ("0%", 0.0), (0.03, 0.03), (0, 0.0), (0.2, 0.2), ("20%", 0.2)]
)
def test_a_tolerance_is_a_share_or_percent(given, share):
    assert claims.Claim(**CLAIM, tolerance=given).tolerance == pytest.approx(share)


@pytest.mark.parametrize("given", [3, "3", 0.9, "50%", 1, -0.01, "-3%", "three", True, None, [0.03], float("nan"), "3%%", "٣%"])
def test_a_tolerance_that_would_hide_a_false_claim_is_refused(tmp_path, given):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"claims": [CLAIM | {"tolerance": given}]}))
    with pytest.raises(ConfigError, match=r"tolerance: .* is not a share from 0 to 0.2, or percent as in 3%: more would hide"):
        claims.load(path)


def test_what_holds_only_within_the_tolerance_is_counted(arm, check):
    """10 above 9.8 is in order within 3% only; 9.8 below 12 is without it, too."""
    arm("1xtp4", 10.0)
    arm("2xtp2", 9.8)
    arm("4xtp1", 12.0)
    text, verdict = check({"arms": ["1xtp4", "2xtp2", "4xtp1"], "tolerance": "3%"})
    assert "1 of 1 as claimed, 1 of them only within the tolerance" in text and "tolerance 3%" in text
    assert (verdict["verdict"], verdict["only_within_tolerance"]) == ("holds", 1)
    text, verdict = check({"arms": ["2xtp2", "4xtp1"], "tolerance": 0.025})
    assert "1 of 1 as claimed\n" in text and "tolerance 2.5%" in text and verdict["only_within_tolerance"] == 0
    assert "levels were measured once: what another launch would change is not in this" in text and verdict["repeats"] == 1


def test_a_claim_of_equality_is_about_the_tolerance(arm, check):
    arm("1xtp2", 10.0)
    arm("2xtp1", 10.2)
    text, verdict = check({"rule": "about_equal"})
    assert "1 of 1 as claimed\n" in text and verdict["only_within_tolerance"] == 0


def test_small_values_are_no_percentages(arm, check):
    """0.4 requests/s per node were once printed as 40%."""
    slow = {"requests": 20, "duration": 200.0}  # 0.1 requests/s of a layout of 2 GPUs: 0.4 per node of 8
    arm("1xtp2", 10.0, **slow)
    arm("2xtp1", 12.0, **slow)
    text, _ = check({"metric": "request_throughput_per_node"})
    assert "1xtp2 0.40, 2xtp1 0.40" in text and "40%" not in text


def test_one_of_several_models_is_asked_for(arm, check):
    for model, other in (("a", 12.0), ("b", 8.0)):
        arm("1xtp2", 10.0, model)
        arm("2xtp1", other, model)
    assert check(None, "--model", "a")[1]["verdict"] == "holds"
    text, verdict = check(None, "--model", "b")
    assert verdict["verdict"] == "fails" and "2 result folders of b" in text and "2 of other workloads left out" in text


def test_a_model_that_is_not_there_is_named_beside_those_that_are(arm, tmp_path, capsys):
    arm("1xtp2", 10.0, "a")
    arm("1xtp2", 10.0, "b")
    (tmp_path / "c.yaml").write_text(json.dumps({"claims": [CLAIM]}))
    with pytest.raises(SystemExit) as stopped:
        check_claims.main([str(tmp_path / "c.yaml"), "--results", str(tmp_path / "results"), "--model", "c"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and "no result folder of c that can be read (there are: a 100:11, b 100:11)" in err


def test_a_later_run_with_replayed_prompts_speaks_for_no_arm_that_has_another(arm, tmp_path):
    """One seed at two levels: the second level's prompts were sent before."""
    fresh = arm("2xtp1", 10.0, date="20260101-000000", levels=(4,))
    arm("as-published_2xtp1", 8.0, date="20260202-000000", levels=(4, 8), seed=0)
    evidence = read_evidence([tmp_path / "results"])
    assert [source.name for source in evidence.candidates("2xtp1")][0] == str(fresh)
