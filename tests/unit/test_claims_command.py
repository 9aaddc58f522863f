"""A claims file, and check_claims.py as it is called."""

import json
import re
import subprocess
import sys

import pytest

import check_claims
from pdbench.analysis import claims
from pdbench.analysis.claim_evidence import read_evidence
from pdbench.configs import ROOT, ConfigError
from tests.helpers.claims import MIXED, flat, writer

STUDY = ROOT / "configs/claims/study.yaml"


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    return writer(tmp_path, write_folder, level_content)


def refusal(tmp_path, text):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        claims.load(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("claim", "reported"),
    [
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1], levles: all}", "unknown key 'claims.0.levles'"),
        ("{id: a, says: b, rule: best}", "claims.0.rule: Input should be 'order_by'"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1]}", "order_by needs 2 arms"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, two]}", "cannot read the layout 'two'"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 fast]}", "'fast' is not allowed after the layout"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 PATH=x]}", "'PATH=x' is not allowed after the layout"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 block_size=]}", "'block_size=' is not allowed after the layout"),
        (
            "{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 RAY_SERVE_HAPROXY_MAXCONN=64]}",
            "'RAY_SERVE_HAPROXY_MAXCONN=64' is not allowed after the layout",
        ),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 pack=3]}", "'pack=3' is not allowed after the layout"),
        (
            "{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1 seed=1 seed=2]}",
            "'2xtp1 seed=1 seed=2': gives an engine argument or a variable twice",
        ),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, p1xtp1-d1xtp1 pack pool]}", "'pool' is not allowed after the layout"),
        ("{id: a, says: b, rule: far_below, arms: [1xtp1]}", "`than` goes with dominated_by and far_below"),
        ("{id: a, says: b, rule: best_of, arms: [1xtp1], regimes: [{best: 1xtp1}]}", "`regimes` goes with best_by_regime"),
        ("{id: a, says: b, rule: best_by_regime, regimes: [{best: 1}]}", "claims.0.regimes.0.best"),
        ("{id: A b, says: b, rule: best_of, arms: [1xtp1]}", "claims.0.id"),
        ("{id: a, says: b, rule: order_by, arms: [1xtp1, 2xtp1], metric: speed}", "claims.0.metric"),
        ("{id: a, says: b, rule: best_of, arms: [1xtp1], metric: median_ttft_ms}", "throughputs are compared, not median_ttft"),
    ],
)
def test_a_wrong_claim_is_refused_in_one_line(tmp_path, claim, reported):
    message = refusal(tmp_path, f"claims:\n  - {claim}\n")
    assert reported in message and "\n" not in message


def test_ids_are_unique(tmp_path):
    claim = "  - {id: a, says: b, rule: best_of, arms: [1xtp1]}\n"
    assert "several claims are called 'a'" in refusal(tmp_path, f"claims:\n{claim}{claim}")


def test_why_a_run_is_not_taken_is_printed(tmp_path, arm, capsys):
    for prefill, tpot in ((1, 20), (2, 10), (3, 20)):
        arm(f"p{prefill}xtp1-d1xtp1", flat(tpot))
    arm("2xtp1", flat(30))
    claim = "{id: c, says: So., rule: order_by, arms: [p2xtp1-d1xtp1, 2xtp1], metric: median_tpot_ms}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {claim}\n")
    check_claims.main([str(tmp_path / "claims.yaml"), "--results", str(tmp_path)])
    assert "not taken: results/p2xtp1-d1xtp1: odd decode: median TPOT (ms) by level" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_verdicts_as_json_and_in_words(tmp_path, arm, capsys):
    arm("2xtp1", {4: (10, 1000), 8: (20, 3000)})
    arm("p1xtp1-d1xtp1", {4: (9, 500), 8: (20, 2000)})
    broken = tmp_path / "results" / f"{MIXED}1xtp1"
    broken.mkdir()
    (broken / "conc4.json").write_text("{")
    claim = "{id: lost, says: It loses., rule: dominated_by, arms: [p1xtp1-d1xtp1], than: 2xtp1}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {claim}\n")
    out = tmp_path / "verdicts.json"
    check_claims.main([str(tmp_path / "claims.yaml"), "--results", str(tmp_path), "--json", str(out)])
    text = capsys.readouterr().out
    assert "PARTLY lost: It loses." in text and "1 of 2 as claimed" in text and "tolerance 3%" in text
    assert "NO   4, 9.00 ms: p1xtp1-d1xtp1 500, 2xtp1 -" in text and "partly: 1" in text
    assert f"not read: {broken}/conc4.json: not whole JSON" in " ".join(text.split())
    (verdict,) = json.loads(out.read_text())
    assert (verdict["id"], verdict["verdict"]) == ("lost", "partly")
    assert verdict["numbers"][0] == {
        "at": "4, 9.00 ms", "as_claimed": False, "values": {"p1xtp1-d1xtp1": pytest.approx(500), "2xtp1": None}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arms", "verdict", "strict"),
    [
        ("1xtp2, 2xtp1", "holds", 0),
        ("2xtp1, 1xtp2", "fails", 1),
        ("1xtp2, 2xtp1, 4xtp1", "partly", 0),
        ("4xtp1, 8xtp1", "no-data", 0),
    ],
)
def test_a_claim_that_fails_is_exit_code_1_if_that_is_asked_for(arms, verdict, strict, tmp_path, arm, capsys):
    arm("2xtp1", flat(20))
    arm("1xtp2", flat(10))
    claim = f"{{id: c, says: So., rule: order_by, arms: [{arms}], metric: median_tpot_ms}}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {claim}\n")
    out = tmp_path / "verdicts.json"
    argv = [str(tmp_path / "claims.yaml"), "--results", str(tmp_path / "results"), "--json", str(out)]
    assert check_claims.main(argv) == 0
    assert check_claims.main([*argv, "--strict"]) == strict
    assert f"{verdict}: 1" in capsys.readouterr().out and json.loads(out.read_text())[0]["verdict"] == verdict


def test_help_says_what_exit_codes_mean():
    assert "1 with --strict if a claim fails" in check_claims.build_parser().format_help()


def test_needs_neither_ray_nor_vllm():
    code = "import sys, check_claims, pdbench.analysis.claims, pdbench.output.claim_text; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in run.stdout.split()} & {"ray", "vllm", "torch", "matplotlib"}


@pytest.mark.parametrize(
    ("argv", "reported"),
    [
        (
            ["{root}/none.yaml", "--results", "{root}"],
            "{root}/none.yaml (there are: configs/claims/h200x1.yaml, configs/claims/h200x2.yaml, configs/claims/h200x4.yaml, "
            "configs/claims/study.yaml)",
        ),
        (["{study}", "--results", "{root}/none"], "{root}/none: no such folder"),
        (["{study}", "--results", "{root}"], "{root}: no result folder that can be read"),
        (["{study}", "--results", "{root}", "--workload", "5000"], "--workload: '5000' is not like 5000:250"),
        (["{study}"], "required: --results"),
    ],
)
def test_mistakes_are_reported_in_one_line(tmp_path, capsys, argv, reported):
    fill = {"root": tmp_path, "study": STUDY}
    with pytest.raises(SystemExit) as caught:
        check_claims.main([word.format(**fill) for word in argv])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and reported.format(**fill) in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("experiment", "verdicts"),
    [
        ("mixed_h200x1_engine_*", ["holds", "holds", "fails", *["no-data"] * 6]),
        ("mixed_h200x1_120b_1xtp1 h200x2_120b_*", [*["no-data"] * 3, "holds", "partly", "holds", *["no-data"] * 3]),
        ("h200x1_chunks_* h200x2_120b_pack_*", [*["no-data"] * 6, *["holds"] * 3]),
        (
            "h200x2_chunks_*",
            ["partly", *["fails"] * 3, *["no-data"] * 3, "fails", "partly", *["fails"] * 3, *["no-data"] * 2, *["holds"] * 9]
            + ["partly"],
        ),
        ("h200x2_serving_*xtp1", ["holds", "holds", "holds", "fails", *["no-data"] * 8, "holds", "partly", "partly"]),
        (
            "h200x4_ratio_* mixed_h200x1_120b_1xtp1",
            ["partly", "fails", "holds", "holds", "no-data", "partly", "holds", "fails", "holds", "partly"],
        ),
        ("h200x2_first_*", ["holds", "partly", "partly", "fails", "no-data", *["no-data"] * 9, "holds"]),
        (
            "h200x2_120b_*",
            ["holds", *["fails"] * 3, *["no-data"] * 3, *["partly"] * 2, *["holds"] * 3, *["no-data"] * 2, "holds"],
        ),
        ("h200x2_network_*", [*["no-data"] * 4, "partly", "partly", "fails", *["no-data"] * 8]),
        ("itl8000_otl50_mixed_h200x2_lengths_*", ["holds", "holds", "no-data", "fails", *["no-data"] * 10, "holds"]),
        ("itl5000_otl250_mixed_h200x2_lengths_*", [*["holds"] * 4, *["no-data"] * 10, "holds"]),
        ("itl2000_otl500_mixed_h200x2_lengths_*", [*["fails"] * 4, *["no-data"] * 10, "holds"]),
        ("itl500_otl1000_mixed_h200x2_lengths_*", [*["fails"] * 4, *["no-data"] * 10, "fails"]),
    ],
)
def test_the_claims_of_our_own_results(experiment, verdicts):
    """What docs/GPU.md says of them."""
    folders = [folder for part in experiment.split() for folder in sorted((ROOT / "bm_results").glob(f"*_{part}"))]
    asked = claims.load(ROOT / f"configs/claims/{re.findall(r'h200x[0-9]', experiment)[0]}.yaml")
    found = claims.check(asked, read_evidence(folders, details=asked.of_details))
    others = ["no-data"] * (len(found) - len(verdicts))  # the last of a file are of one experiment
    assert [verdict.verdict for verdict in found] == verdicts + others
