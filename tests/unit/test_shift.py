"""What is computed and drawn of load that shifts: shares within the SLA, reaction, regret, and the figure's panels."""

import json
import math

import numpy as np
import pytest

import viz
from pdbench.analysis.repeats import of_mean
from pdbench.analysis.shift import attainment, runs_of, shares
from pdbench.analysis.sla import parse
from pdbench.output.figures import View, draw
from pdbench.output.shift_text import words
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_study
from tests.helpers.shifting import BEGAN, CLOCK, write_level

PHASES = "100:11:4:5,20:31:2:5"  # 20 requests, then 10
NAME = "tiny_itl100_otl31_shift_{}"
SLA = {"ttft": 100.0, "tpot": 20.0}
FAST, SLOW = 0.05, 0.2  # s to the first token


def tick(at, before, changed=None):
    """A line of a controller's ticks, `at` seconds after the level began; `before` are the roles that it found, as letters."""
    roles = {"p": "prefill", "d": "decode"}
    reports = [{"replica_id": str(i), "role": roles[letter]} for i, letter in enumerate(before)]
    return json.dumps({"unix": CLOCK + BEGAN + at, "reports": reports, "changed": changed or {}, "prefill": None}) + "\n"


@pytest.fixture
def arm(tmp_path, make_manifest):
    """Write an arm of three engines whose requests of a phase are late where `late` says so, of each repeat."""

    def write(layout, late=((False, False),), mode="pd-pool", ticks="", controlled=False, name="", phases=PHASES):
        folder = tmp_path / NAME.format(f"{mode.removeprefix('pd-')}_{layout}{name}")
        for repeat, of_phases in enumerate(late, start=1):
            stem = "shift1" + f"_rep{repeat}" * (repeat > 1)
            write_level(folder, stem, phases, repeat, ttft=lambda one, of=of_phases: SLOW if of[one.phase] else FAST)
            if ticks:
                (folder / f"{stem}.ticks.jsonl").write_text(ticks)
        controller = {"ttft_ms": 100.0, "tpot_ms": 20.0, "tick_s": 1.0} if controlled else None
        manifest = make_manifest(layout, mode, isl=100, osl=31, phase="shift", gpus=3, controller=controller)
        manifest.model_copy(update={"shift": phases}).write(folder)
        return folder

    return write


def runs(*folders, load=1.0):
    study = read_study(folders)
    return runs_of(study, study.table, load, SLA)


def rows(*folders):
    return attainment(runs(*folders)).set_index("arm").to_dict("index")


ONE_TWO, TWO_ONE, MOVED = "p1xtp1-d2xtp1 pool", "p2xtp1-d1xtp1 pool", "p1xtp1-d2xtp1 controlled pool"


def test_a_request_counts_where_both_bounds_hold(arm):
    (run,) = runs(arm("p1xtp1-d2xtp1", [(True, False)]))
    assert run.attained == pytest.approx(10 / 30) and list(run.by_phase) == [0, 1]
    assert run.goodput == pytest.approx(10 / run.duration / 3), "per accelerator"
    assert list(run.weights) == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    study = read_study([arm("p1xtp1-d2xtp1")])
    assert runs_of(study, study.table, 1.0, {"tpot": 9.0})[0].attained == 0, "TPOT is 10 ms"
    assert runs_of(study, study.table, 1.0, {"ttft": 51.0})[0].attained == 1, "what is not bounded is not judged"


def test_regret_is_to_the_ratio_that_is_best_in_each_phase(arm):
    folders = arm("p1xtp1-d2xtp1", [(True, False)]), arm("p2xtp1-d1xtp1", [(False, True)]), arm("3xtp1", mode="collocated")
    found = rows(*folders, arm("p1xtp1-d2xtp1", [(False, False)], controlled=True, name="_moved"))
    assert {name: row["regret"] for name, row in found.items()} == {
        ONE_TWO: pytest.approx(2 / 3), TWO_ONE: pytest.approx(1 / 3), "3xtp1": pytest.approx(0), MOVED: pytest.approx(0),
    }  # fmt: skip
    assert found[MOVED]["lead"] == found["3xtp1"]["lead"] == pytest.approx(1 / 3), "2:1 attains two thirds"
    assert found[ONE_TWO]["lead"] == pytest.approx(-1 / 3) and math.isnan(found[TWO_ONE]["lead"])
    assert [found[name]["fixed"] for name in (ONE_TWO, TWO_ONE, MOVED, "3xtp1")] == [True, True, False, False]


def test_without_a_fixed_ratio_there_is_no_regret(arm):
    found = rows(arm("3xtp1", mode="collocated"), arm("p1xtp1-d2xtp1", controlled=True))
    assert all(math.isnan(row["regret"]) and math.isnan(row["lead"]) for row in found.values())
    assert "no fixed ratio is among the arms, so there is no regret" in words(attainment(runs(arm("3xtp1", mode="collocated"))))


def test_intervals_are_over_three_repeats_or_there_are_none(arm):
    fixed = arm("p1xtp1-d2xtp1", [(False, False), (True, False), (False, True)])
    (row,) = rows(fixed).values()
    assert of_mean([1, 1 / 3, 2 / 3])[0] < 0 and (row["attained_from"], row["attained_to"]) == (0, 1), (
        "no share is beyond these"
    )
    assert "repeat by repeat" in " ".join(words(attainment(runs(fixed))))
    once = attainment(runs(arm("p2xtp1-d1xtp1")))
    assert once["attained_from"].isna().all()
    assert "measured once: no interval with fewer than 3 repeats, a difference may be noise" in words(once)
    both = rows(fixed, arm("3xtp1", [(False, False)] * 3, mode="collocated"))["3xtp1"]
    assert (both["lead_from"], both["lead_to"]) == pytest.approx((of_mean([0, 2 / 3, 1 / 3])[0], 1)), (
        "of differences, by repeat"
    )


def test_reaction_is_from_a_phases_first_request_to_its_first_change(arm):
    ticks = tick(1, "pdd") + tick(7, "pdd", {"1": "prefill"}) + tick(8, "ppd", {"0": "decode", "2": "prefill"}) + tick(9, "dpp")
    (run,) = runs(arm("p1xtp1-d2xtp1", ticks=ticks, controlled=True))
    begin = run.begins[1]
    assert run.begins[0] < 1 and 5 <= begin < 7
    assert run.reactions == [pytest.approx(7 - begin, abs=1e-3)], "a later change of a phase is no reaction"
    assert run.flips == 3 and [one.prefill for one in run.ticks] == [1, 2, 2, 2] and {one.engines for one in run.ticks} == {3}
    (row,) = rows(arm("p1xtp1-d2xtp1", ticks=ticks, controlled=True)).values()
    assert (row["flips"], row["reaction"]) == (3, pytest.approx(7 - begin, abs=1e-3))


def test_only_ticks_of_the_level_count(arm):
    ticks = tick(-1, "pdd", {"1": "prefill"}) + tick(4, "ppd") + tick(500, "ppd", {"1": "decode"})
    (run,) = runs(arm("p1xtp1-d2xtp1", ticks=ticks, controlled=True))
    assert run.flips == 0 and [round(one.at) for one in run.ticks] == [4] and run.reactions == []


@pytest.mark.parametrize("ticks", ["{}\n", "[1]\n", "nope\n", '{"unix": "x", "reports": [{}], "changed": {}}\n'])
def test_ticks_that_cannot_be_read_are_one_line_with_their_file(arm, ticks):
    with pytest.raises(ResultError) as error:
        runs(arm("p1xtp1-d2xtp1", ticks=ticks, controlled=True))
    assert "shift1.ticks.jsonl: " in str(error.value) and "\n" not in str(error.value)


def test_arms_that_were_not_sent_the_same_are_not_compared(arm, tmp_path, write_folder, level_content):
    with pytest.raises(ResultError, match="were not sent the same requests in repeat 1"):
        runs(arm("p1xtp1-d2xtp1"), arm("p2xtp1-d1xtp1", phases="100:11:4:5,20:31:3:5"))
    other = write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content()})
    with pytest.raises(ResultError, match="2xtp1.* has no load that shifts: run_bm.sh --phases"):
        runs(arm("p1xtp1-d2xtp1"), other)


def test_shares_are_of_the_requests_sent_within_a_bin(arm):
    at, share = shares(runs(arm("p1xtp1-d2xtp1", [(True, False), (False, False)])), 5.0)
    assert list(at) == [2.5, 7.5] and list(share) == [0.5, 1.0]


# -- the figure --


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_label() == name)


def line(axes, name):
    return next(each for each in axes.get_lines() if each.get_label() == name).get_xydata()


def test_the_figure_shows_when_requests_were_late_and_what_the_ratio_was(arm):
    ticks = tick(1, "pdd") + tick(7, "pdd", {"1": "prefill"})
    folders = arm("p2xtp1-d1xtp1", [(False, True)]), arm("p1xtp1-d2xtp1", ticks=ticks, controlled=True)
    study = read_study(folders)
    figure = draw(study.table, View(figure="shift", sla=parse("ttft=100,tpot=20")), study)
    assert "TTFT <= 100 ms, TPOT <= 20 ms" in figure.get_suptitle() and "ISL up to 100" in figure.get_suptitle()
    late, in_time = (line(panel(figure, f"ttft {TWO_ONE}"), name) for name in ("late", "in time"))
    assert len(late) == 10 and late[:, 1] == pytest.approx(200) and (late[:, 0] > 5).all()
    assert len(in_time) == 20 and in_time[:, 1] == pytest.approx(50)
    assert len(line(panel(figure, f"ttft {MOVED}"), "late")) == 0
    ratio = line(panel(figure, f"ratio {MOVED}"), "controlled")
    assert ratio[:2] == pytest.approx(np.array([[1, 1], [7, 2]]), abs=1e-3) and ratio[-1][1] == 2
    assert set(line(panel(figure, f"ratio {TWO_ONE}"), "fixed")[:, 1]) == {2}
    sent = panel(figure, f"sent {MOVED}").patches[-1].get_data()
    assert sent.values == pytest.approx([4, 2], rel=0.35), "requests/s of the phases, from their first request on"
    assert line(panel(figure, f"share {TWO_ONE}"), "share")[-1][1] == 0


def test_viz_draws_it_and_prints_what_each_arm_attains(arm, tmp_path, capsys):
    folders = [str(arm("p1xtp1-d2xtp1", [(True, False)])), str(arm("p2xtp1-d1xtp1", [(False, True)]))]
    path = tmp_path / "figure.png"
    asked = ["--figure", "shift", "--sla", "ttft=100,tpot=20", "--plot-path", str(path), "--json", str(tmp_path / "a.json")]
    viz.main(["--exps", *folders, *asked])
    out = capsys.readouterr().out
    assert path.is_file() and "measured once" in out and "reaction" not in out.splitlines()[-3]
    (row,) = (words for words in map(str.split, out.splitlines()) if words[:3] == ["p2xtp1-d1xtp1", "pool", "1"])
    assert row[3] == "66.67" and row[5] == "+33.33", "attained and regret, in percent and points"
    assert "by shift" not in out, "no decision by levels: the bounds are of each request"
    written = json.loads((tmp_path / "a.json").read_text())
    one_two, two_one = written["attainment"]
    assert two_one["attained"] == pytest.approx(2 / 3) and two_one["regret"] == pytest.approx(1 / 3)
    assert (one_two["attained_from"], one_two["fixed"], two_one["reaction"]) == (None, True, None)
    assert [run["by_phase"] for run in written["runs"]] == [[0, 1], [1, 0]] and written["load"] == 1
    assert {(bound["metric"], bound["limit"]) for bound in written["bounds"]} == {("ttft", 100), ("tpot", 20)}


def test_what_is_not_asked_for_rightly_is_one_line(arm, tmp_path, capsys, write_folder, level_content):
    folder = str(arm("p1xtp1-d2xtp1"))
    other = str(write_folder(tmp_path, "tiny_itl100_otl31_mixed_2xtp1", {"conc4.json": level_content(osl=31)}))
    plot = ["--plot-path", str(tmp_path / "x.png")]
    for words_given, named in [
        (["--exps", folder, "--figure", "shift", *plot], "--figure shift needs --sla"),
        (["--exps", folder, "--figure", "shift", "--sla", "itl=5", *plot], "--figure shift needs --sla"),
        (["--exps", folder, *plot], "load that shifts is compared by --figure shift"),
        (["--exps", folder, "--sla", "tpot=10"], "load that shifts is compared by --figure shift"),
        (["--exps", folder, "--figure", "shift", "--sla", "tpot=10", "--level", "2", *plot], "was not measured at load 2"),
        (
            ["--exps", folder, "--figure", "shift", "--sla", "tpot=10", "--report", str(tmp_path / "x.html")],
            "is compared by --figure",
        ),
        (["--exps", other, "--figure", "shift", "--sla", "tpot=10", *plot], "has no load that shifts"),
    ]:
        with pytest.raises(SystemExit):
            viz.main(words_given)
        assert named in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x.png").exists()
    viz.main(["--exps", folder, other, "--sla", "tpot=50"])
    seen = capsys.readouterr()
    assert "left out, since its load shifts (see --figure shift)" in seen.err and "p1xtp1-d2xtp1" not in seen.out
    viz.main(["--exps", folder, other, "--report", str(tmp_path / "x.html"), *plot])
    assert capsys.readouterr().err.count("left out, since its load shifts") == 1
    viz.main(["--exps", folder, other, "--show-tables"])
    assert "p1xtp1-d2xtp1" in capsys.readouterr().out, "a table has a place for each kind of load"
