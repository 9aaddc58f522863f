"""--json: the numbers that other options print, in one file that any JSON reader reads."""

import json
import os

import pytest

import viz

COLLOCATED = "tiny_itl100_otl11_mixed_2xtp1"
PD = "tiny_itl100_otl11_mixed_pack_1xtp1-1xtp2"


@pytest.fixture
def rivals(tmp_path, monkeypatch, write_folder, level_content):
    """2xtp1 at TPOT 10 ms and 4000 input tokens/s per node of 8; PD at 8 ms and 2667, at 16 ms and 5333; three repeats."""
    monkeypatch.chdir(tmp_path)

    def levels(**contents):
        each = ((name, content, rep) for name, content in contents.items() for rep in ("", "_rep2", "_rep3"))
        return {f"{name}{rep}.json": content | {"label": f"{rep} {id(contents)}"} for name, content, rep in each}

    fast = level_content(8, duration=1.0, median_tpot_ms=16.0)
    arms = {
        COLLOCATED: levels(conc4=level_content(4), conc8=level_content(8)),
        PD: levels(conc4=level_content(4, median_tpot_ms=8.0), conc8=fast),
    }
    return [str(write_folder(tmp_path / "results", *arm)) for arm in arms.items()]


def written(*flags):
    viz.main(["--json", "a.json", *flags])
    with open("a.json", encoding="utf-8") as file:
        return json.load(file, parse_constant=pytest.fail)  # no NaN or Infinity: strict readers refuse these


def test_bands_are_numbers_and_what_has_no_end_is_null(rivals, capsys):
    found = written("--exps", *rivals)
    assert sorted(os.listdir()) == ["a.json", "results"], "and no figure"
    assert "a.json: 2 arms" in capsys.readouterr().out
    assert (found["schema"], found["latency"], found["throughput"]) == (1, "median_tpot_ms", "input_throughput_per_node")
    (workload,) = found["workloads"]
    assert [workload[name] for name in ("model", "isl", "osl", "phase", "kind")] == ["tiny", 100, 11, "mixed", "concurrency"]
    bands = workload["bands"]
    assert [(band["low"], band["high"]) for band in bands] == [(8, 10), (10, 12), (12, None)]
    assert [band["best"] for band in bands] == ["p1xtp1-d1xtp2 pack", "2xtp1", "p1xtp1-d1xtp2 pack"]
    assert bands[0]["next_best"] == "" and bands[0]["next_margin"] is None, "alone"
    assert bands[2]["next_margin"] == pytest.approx(1 / 6)
    assert "sla" not in workload and found["bounds"] == [] and "overhead" not in found
    assert found["folders"] == {rivals[0]: "2xtp1", rivals[1]: "p1xtp1-d1xtp2 pack"}


def test_an_sla_is_answered_with_prices(rivals):
    found = written("--sla", "tpot=9,p99_ttft=500", "--gpu-hour-price", "3", "--exps", *rivals)
    assert found["bounds"] == [
        {"statistic": "median", "metric": "tpot", "limit": 9},
        {"statistic": "p99", "metric": "ttft", "limit": 500},
    ]
    first, second = found["workloads"][0]["sla"]
    assert first["arm"] == "p1xtp1-d1xtp2 pack" and first["holds"] is True and first["throughput"] == pytest.approx(3000)
    assert first["price_input"] == pytest.approx(24 / (3000 * 3600) * 1e6)
    assert second["holds"] is False and second["throughput"] is None and "10.0 ms at best" in second["reason"]
    assert found["workloads"][0]["bands"][1]["price_low"] == pytest.approx(24 / (4000 * 3600) * 1e6)


def test_rates_that_were_not_served_are_listed(tmp_path, monkeypatch, write_folder, level_content):
    monkeypatch.chdir(tmp_path)
    levels = {"rr2.json": level_content(None, rate=2, duration=10.1), "rr8.json": level_content(None, rate=8, duration=10.0)}
    found = written("--sla", "ttft=500", "--exps", str(write_folder(tmp_path, COLLOCATED, levels)))
    (late,) = found["workloads"][0]["overloaded"]
    assert late == {"arm": "2xtp1", "level": 8, "repeat": 1, "request_throughput": 2, "cap_reached": None}


def test_audit_intervals_and_what_is_left_out(rivals, write_folder, tmp_path, level_content):
    same = {"conc4.json": level_content(4, duration=2.2)}
    copies = [str(write_folder(tmp_path / "results", f"tiny_itl100_otl11_mixed_{name}", same)) for name in ("1xtp4", "2xtp8")]
    found = written("--exps", *rivals, *copies)
    assert found["left_out"] == dict.fromkeys(copies, ["two layouts"]) and not set(copies) & found["folders"].keys()
    finding = next(finding for finding in found["audit"] if finding["kind"] == "two layouts")
    assert finding["folders"] == copies and all(finding[name] for name in ("seen", "why", "fix"))
    rows = {(row["arm"], row["level"], row["statistic"]): row for row in found["intervals"]}
    assert rows["2xtp1", 4, "median_tpot_ms"]["estimate"] == 10 == rows["2xtp1", 4, "median_tpot_ms"]["low"]
    assert "1xtp4" not in {row["arm"] for row in found["intervals"]}
    kept = written("--include-refuted", "--exps", *rivals, *copies)
    rows = {(row["arm"], row["level"], row["statistic"]): row for row in kept["intervals"]}
    assert rows["1xtp4", 4, "median_tpot_ms"]["low"] is None and kept["left_out"] == {}


def test_overhead_is_added_on_request(tmp_path, monkeypatch, write_folder, level_content):
    monkeypatch.chdir(tmp_path)
    names = ("tiny_itl100_otl11_mixed_bare_1xtp1", "tiny_itl100_otl11_mixed_1xtp1")
    folders = [
        str(write_folder(tmp_path, name, {"conc4.json": level_content(median_ttft_ms=ttft)}))
        for name, ttft in zip(names, (50.0, 60.0), strict=True)
    ]
    found = written("--show-overhead", "--exps", *folders)
    assert found["bare"] == ["1xtp1 bare"] and written("--include-bare", "--exps", *folders)["bare"] == []
    (row,) = found["overhead"]
    assert row["added_ttft_ms"] == 10 and row["added_ttft_ms_from"] is None and row["arm"] == "1xtp1"


@pytest.mark.parametrize(("path", "reported"), [("a.txt", "must end in .json"), ("none/a.json", "there is no folder 'none'")])
def test_a_wrong_path_is_one_line(rivals, capsys, path, reported):
    with pytest.raises(SystemExit) as stopped:
        viz.main(["--json", path, "--exps", *rivals])
    assert stopped.value.code == 2 and reported in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "path"), [("--json", "a.json"), ("--report", "a.html")])
def test_a_file_that_cannot_be_written_is_one_line(rivals, capsys, monkeypatch, flag, path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pdbench.files.tempfile.mkstemp", full)
    with pytest.raises(SystemExit) as stopped:
        viz.main([flag, path, "--exps", *rivals])
    assert stopped.value.code == 2 and f"{path}: No space left on device" in capsys.readouterr().err
