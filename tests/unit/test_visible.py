"""What folders and manifests say is shown: it steers no terminal, runs in no spreadsheet and leaves no report."""

import base64
import csv
import gzip
import json
import os
import re
import sys

import pandas as pd
import pytest

import check_claims
import viz
from pdbench import cli
from pdbench.output import report
from pdbench.output.figures import View
from pdbench.read.export import export
from pdbench.read.results import TEXT, read_results, read_study

STEERING = "\x1b[31mred\x1b[0m\x07\x9b2J\u202egnp\u2066"
SHOWN = r"\x1b[31mred\x1b[0m\x07\x9b2J\u202egnp\u2066"
NO_UTF8 = os.fsdecode(b"latin-\xe9")


@pytest.fixture
def folders(tmp_path, write_folder, level_content, make_manifest):
    """Two folders of one layout, whose names and manifests hold what a terminal obeys."""
    level = {"conc4.json": level_content(4)}
    names = (f"tiny_itl100_otl11_mixed_spread_p1xtp2-d1xtp2_{STEERING}", "tiny_itl100_otl11_mixed_spread_p1xtp2-d1xtp2_b")
    made = [write_folder(tmp_path / "a\x1b[2J", name, level) for name in names]
    make_manifest(command=f"launch {STEERING}", model_source=STEERING, launched=STEERING).write(made[0])
    return made


def obeyed(text):
    return set(re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text))


def test_text_is_made_visible_and_nothing_else_changes():
    assert cli.visible(STEERING) == SHOWN and cli.visible(NO_UTF8) == r"latin-\udce9"
    assert cli.visible("a\tb\nc é µ 漢 🙂") == "a\tb\nc é µ 漢 🙂"


@pytest.mark.parametrize("option", ["--show-tables", "--audit", "--show-decision", "--show-intervals", "--plot"])
def test_no_answer_steers_the_terminal(folders, capsys, monkeypatch, tmp_path, option):
    monkeypatch.chdir(tmp_path)
    viz.main([option, "--exps", *map(str, folders)])
    out, err = capsys.readouterr()
    assert obeyed(out + err) == set()
    assert option == "--show-intervals" or option == "--plot" or SHOWN[:12] in out


def test_no_error_steers_the_terminal(folders, capsys):
    (folders[0] / "conc4.json").write_text("[")
    with pytest.raises(SystemExit) as stopped:
        viz.main(["--exps", *map(str, folders)])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and obeyed(err) == set() and SHOWN in err and err.count("\n") == 1


def test_a_newline_in_a_name_makes_no_second_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        viz.main(["--exps", str(tmp_path / "a\nviz.py: all is well")])
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_left_out_steers_no_terminal(folders, capsys, tmp_path):
    file = tmp_path / f"file{STEERING}"
    file.touch()
    (tmp_path / f"x{STEERING}").mkdir()
    viz.main(["--show-tables", "--skip-unreadable", "--exps", str(file), str(tmp_path / f"x{STEERING}"), *map(str, folders)])
    err = capsys.readouterr().err
    assert obeyed(err) == set() and err.count(SHOWN) >= 2 and err.count("\n") == 3, "and which folder has no manifest"


def test_a_name_that_is_no_utf8_is_refused(tmp_path, write_folder, level_content, capsys):
    folder = write_folder(tmp_path, f"tiny_itl100_otl11_mixed_2xtp1_{NO_UTF8}", {"conc4.json": level_content(4)})
    with pytest.raises(SystemExit):
        viz.main(["--show-tables", "--exps", str(folder)])
    err = capsys.readouterr().err
    assert r"latin-\udce9: its path is not UTF-8: give it another name" in err and err.count("\n") == 1


def test_half_a_character_in_a_file_is_shown(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content(4, date="\ud800")})
    assert read_results([folder])["date"].iloc[0] == r"\ud800"


def test_claims_steer_no_terminal(folders, tmp_path, capsys):
    claims = tmp_path / "c.yaml"
    claim = {"id": "a", "says": STEERING, "rule": "order_by", "arms": ["p1xtp2-d1xtp2 spread", "2xtp1"]}
    claims.write_text(json.dumps({"claims": [claim]}))
    check_claims.main([str(claims), "--results", str(folders[0].parent)])
    out = capsys.readouterr().out
    assert obeyed(out) == set() and SHOWN in out


# -- the report --


def test_a_report_holds_no_control_characters_and_its_chart_finds_every_arm(folders):
    page = report.render(read_study(folders), View())
    assert obeyed(page) == set() and SHOWN in page
    arms = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["arms"]
    boxes = set(re.findall(r'<input type="checkbox"[^>]*value="([^"]*)"', page))
    assert {arm["name"] for arm in arms} == boxes and len(boxes) == 2


def test_a_report_has_no_address_to_send_its_chart_to(folders):
    page = report.render(read_study(folders), View())
    packed = re.search(r'id="plotly"[^>]*>([^<]*)</script>', page)[1]
    plotly = gzip.decompress(base64.b64decode(packed)).decode()
    assert "Plotly" in plotly and not re.search(r"cloud\.plotly\.com|chart-studio\.plot|plot\.ly/create", plotly)
    config = re.search(r"const config = \{(.*?)\};", page, re.DOTALL)[1]
    assert "showSendToCloud: false" in config and 'plotlyServerURL: ""' in config and '"sendChartToCloud"' in config
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert {"default-src 'none'", "form-action 'none'", "base-uri 'none'"} <= set(policy.split("; "))
    assert report._hash(plotly) in policy  # of what is in the page, not of the package's


def test_sentences_of_a_report_keep_their_capitals():
    assert report.sentence("added = behind Ray Serve") == "Added = behind Ray Serve"


# -- exports --


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "＝1", "－1"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path, write_folder, level_content, text):
    table = read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content(4)})])
    table = table.assign(model=text, engine="a\nb", completed=-5, median_ttft_ms=-1.5)
    export(table, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["model"] == "'" + cli.visible(text)
    assert not [name for name in TEXT if row[name].startswith(tuple("=+-@\t\r\n"))]
    assert (row["completed"], row["median_ttft_ms"], row["engine"]) == ("-5", "-1.5", "a\nb")  # numbers stay numbers


def test_other_formats_keep_text_as_it_is(tmp_path, write_folder, level_content):
    table = read_results([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", {"conc4.json": level_content(4)})])
    export(table.assign(model="=1+1"), tmp_path / "a.json")
    assert pd.read_json(tmp_path / "a.json")["model"].iloc[0] == "=1+1"


def test_output_is_its_own_again_afterwards(folders, capsys):
    before = sys.stdout
    viz.main(["--show-tables", "--exps", str(folders[1])])
    assert sys.stdout is before
