"""The report as text: what is in it, what is escaped, the numbers of its chart. See also test_report_page.py."""

import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import viz
from pdbench.analysis.audit import Finding
from pdbench.analysis.sla import parse
from pdbench.output import chart, figures, provenance, report
from pdbench.output.figures import View
from pdbench.output.figures.styles import OTHER_RATIOS, RATIO_COLORS
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_study

HOSTILE = "<!--<script><img src=x onerror=alert(1)>"  # <!--<script would hide the end of a script from a browser


@pytest.fixture
def study(tmp_path, write_folder, level_content):
    """A collocated arm of 2 GPUs, measured twice, and a PD arm of 3: twice the requests in the second repeat's 2 s."""
    once = {f"conc{k}.json": level_content(k) for k in (4, 8)}
    again = {f"conc{k}_rep2.json": level_content(k, requests=40, duration=2.0) for k in (4, 8)}
    folders = [
        write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", once | again),
        write_folder(tmp_path, "tiny_itl100_otl11_mixed_pack_1xtp1-1xtp2", once),
    ]
    return read_study(folders)


def tags(page):
    """Every opening tag with its attributes, as a browser would see them."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page)
    return found


def chart_data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_one_file_that_points_nowhere(study):
    page = report.render(study, View())
    assert len(page.encode()) < 6e6
    pointed = {value for _, attributes in tags(page) for name, value in attributes.items() if name in ("src", "href")}
    assert pointed <= {"#audit"}
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in report._read("report.css")


def test_the_decision_stands_first(study):
    page = report.render(study, View(sla=parse("tpot=10")))
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings[0] == "Decision" and headings[-1] == "Provenance"
    # Both arms have a TPOT of 10 ms at every level and 1000 input tokens/s in a first repeat; in the second of the
    # collocated arm 2000, so 1500 in the median, x 8 / 2 GPUs = 6,000 per node; PD: 1000 x 8 / 3 = 2,667; 6000 / 2666.7
    # = +125.0%.
    first = html.unescape(page[page.index("Decision</h2>") : page.index('id="crossovers"')])
    assert "Within median TPOT <= 10 ms" in first and "Best: 2xtp1, 6,000 input/s/node" in first
    assert "+125.0% over the next best, p1xtp1-d1xtp2 pack" in first


def test_without_a_target_the_bands_are_the_decision(study):
    page = report.render(study, View(latency_mode="first_token"))
    first, crossovers = page[page.index("Decision</h2>") : page.index('id="tradeoff"')].split('id="crossovers"')
    assert "No target was given" in first and "Best by median TTFT" in first
    assert "Best by median TTFT" not in crossovers and "Best by median TPOT" in crossovers


def test_chart_data_by_hand(study):
    content = chart_data(report.render(study, View(sla=parse("p99_ttft=120"))))
    collocated, pd = content["arms"]
    assert [arm["name"] for arm in (collocated, pd)] == ["2xtp1", "p1xtp1-d1xtp2 pack"]
    # Repeats of 20 and 40 requests of 100 tokens in 2 s are 1000 and 2000 tokens/s; x 8 / 2 GPUs.
    rate = "input_throughput_per_node"
    assert [collocated[name][rate] for name in ("low", "middle", "high")] == [[4000] * 2, [6000] * 2, [8000] * 2]
    assert pd["middle"]["level_per_gpu"] == pytest.approx([4 / 3, 8 / 3], rel=1e-5)
    assert pd["middle"]["token_interactivity"] == [100, 100]  # 1000 / 10 ms
    assert content["bounds"] == {"p99_ttft_ms": 120}
    assert content["better"]["median_tpot_ms"] == -1 and content["better"][rate] == 1 and content["better"]["level"] == 0
    assert "2 repeats, medians" in collocated["hover"][0] and "1 measurement" in pd["hover"][0]
    assert "p90_tpot_ms" not in content["labels"]  # no arm has per-request details


def test_text_of_folders_is_escaped(tmp_path, write_folder, level_content, make_manifest):
    level = {"conc4.json": level_content(4)}
    folders = [
        write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{HOSTILE}_2xtp1", level),
        write_folder(tmp_path, "tiny_itl100_otl11_mixed_b_2xtp1", level),
        write_folder(tmp_path, "tiny_itl100_otl11_mixed_spread_1xtp2-1xtp2", level),
    ]
    script = "</script><script>alert(2)</script>"
    make_manifest(command=f"launch {script}", model_source=script).write(folders[2])
    study = read_study(folders)
    finding = Finding("odd decode", (str(folders[0]),), script, HOSTILE, HOSTILE)
    page = report.render(study, View(), findings=[finding])
    seen = tags(page)
    assert any(HOSTILE in arm for arm in study.table["arm"])
    assert not [tag for tag, _ in seen if tag == "img"] and len([tag for tag, _ in seen if tag == "script"]) == 3
    assert "<" not in re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert html.escape(f"launch {script}") in page and HOSTILE in chart_data(page)["arms"][0]["name"]
    assert HOSTILE not in chart_data(page)["arms"][0]["hover"][0]  # plotly reads it as HTML


def test_what_is_left_out_is_named_beside_the_decision(study):
    folder = study.table["folder"].iloc[-1]
    finding = Finding("odd decode", (folder,), "seen", "why", "fix")
    page = report.render(study, View(), findings=[finding], left_out={folder: ["odd decode"]})
    first = re.sub(r"<[^>]+>", "", page[page.index("Decision</h2>") : page.index('id="crossovers"')])
    assert "Left out of decision and crossovers: p1xtp1-d1xtp2 pack, odd decode" in " ".join(first.split())
    assert "p1xtp1-d1xtp2 pack" not in first.split("odd decode", 1)[1] and "<dd>seen</dd>" in page


def test_provenance_tells_what_arms_share_and_where_they_differ(tmp_path, write_folder, level_content, make_manifest):
    level = {"conc4.json": level_content(4)}
    folders = [write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{name}_1xtp2-1xtp2", level) for name in "ab"]
    for folder, launched in zip(folders, ("noon", "midnight"), strict=True):
        make_manifest(launched=launched).write(folder)
    study = read_study(folders)
    facts = {arm: provenance.facts(manifest) for arm, manifest in provenance.manifests(study).items()}
    shared, differing = report.provenance(facts)
    assert ("Accelerators", "4 CPU on 1 node") in shared.rows and ("Machines", "c, 2 cores, 8 GiB") in shared.rows
    assert list(differing.headers) == ["arm", "Launched"]
    assert [row[1] for row in differing.rows] == ["noon", "midnight"]


def test_an_arm_without_a_manifest_is_named(study):
    assert "not known: 2xtp1, p1xtp1-d1xtp2 pack." in report.render(study, View())


def test_columns_of_numbers():
    rows = [("4xtp2", "1,234", "-", "alone"), ("2xtp1", "-", "4xtp2", "+5.2% to +6.0%")]
    assert report.Grid("", "abcd", rows).classes == ["", "number", "", "number"]
    assert report.Grid("", "abcd", rows, prose=True).classes == ["prose"] * 4


@pytest.mark.parametrize("color", [*RATIO_COLORS.values(), *OTHER_RATIOS, "#000000"])
def test_colours_are_readable_on_a_dark_page(color):
    dark = chart.looks(figures.Style(color, "o", "-", True)).dark
    assert chart.contrast(dark, chart.DARK_PAGE) >= 3
    if chart.contrast(color, chart.DARK_PAGE) >= 3:
        assert dark == color.lower()


def test_black_is_white_on_a_dark_page():
    assert chart.looks(figures.Style("#000000", "s", (0, (5, 2)), True)).dark == "#ffffff"
    assert f"--page: {chart.DARK_PAGE}" in report._read("report.css")


def test_contrast_by_hand():
    # White has luminance 1, black 0: (1 + 0.05) / (0 + 0.05) = 21.
    # 0x80 / 255 = 0.502 is linear ((0.502 + 0.055) / 1.055)^2.4 = 0.2159.
    assert chart.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert chart.contrast("#808080", "#000000") == pytest.approx((0.2159 + 0.05) / 0.05, abs=0.01)


def test_looks_of_the_figures():
    look = chart.looks(figures.Style("#009E73", "s", (0, (5, 2)), False))
    assert (look.color, look.width, look.dash, look.symbol) == ("#009e73", 2, "10px,4px", "square-open")
    assert look.outline == "M-0.500 -0.500L0.500 -0.500L0.500 0.500L-0.500 0.500Z"


@pytest.mark.parametrize("path", ["report.htm", "none/report.html"])
def test_a_wrong_path_writes_nothing(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        viz.main(["--exps", "x", "--report", path])
    assert caught.value.code == 2 and not os.listdir() and len(capsys.readouterr().err.splitlines()) == 1


def test_what_cannot_be_shown_is_refused(tmp_path, write_folder, level_content):
    folder = write_folder(tmp_path, "tiny_itl100_otl1_mixed_2xtp1", {"conc4.json": level_content(osl=1)})
    with pytest.raises(ResultError, match="use --latency-mode first_token"):
        report.render(read_study([folder]), View())
    assert "Best by median TTFT" in report.render(read_study([folder]), View(latency_mode="first_token"))


def test_published_results(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exps = sorted(str(folder) for folder in (published / "bm_results").iterdir())
    viz.main(["--sla", "tpot=10,ttft=500", "--report", "out.html", "--exps", *exps])
    assert "out.html: 12 arms, 72 measurements" in capsys.readouterr().out
    assert os.listdir() == ["out.html"] and Path("out.html").stat().st_size < 6e6


def test_of_many_arms_the_chart_opens_with_the_best(study):
    page = report.render(study, View(), most_arms=1)
    boxes = {tag["value"]: "checked" in tag for name, tag in tags(page) if name == "input" and tag.get("value")}
    assert boxes == {"2xtp1": True, "p1xtp1-d1xtp2 pack": False}, "the best collocated stays"
    assert "The chart opens with 1 of 2 arms" in page and len(chart_data(page)["arms"]) == 2
    assert "The chart opens with" not in report.render(study, View())


def test_coarser_pieces_are_said_at_every_point(tmp_path, write_folder, level_content, lawful):
    fine = level_content(detailed=True, requests=100)
    coarse = lawful(fine | {"itls": [[0.05] * 2] * 100, "seed": "2"})
    folders = [write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{name}", {"conc4.json": content})
               for name, content in (("2xtp1", fine), ("1xtp2", coarse))]  # fmt: skip
    hover = {arm["name"]: arm["hover"][0] for arm in chart_data(report.render(read_study(folders), View()))["arms"]}
    assert "5 tokens a piece against 1: its inter-token latency is between pieces" in hover["1xtp2"]
    assert "piece" not in hover["2xtp1"]


def test_a_saturated_level_wins_no_band_of_ttft(tmp_path, write_folder, level_content):
    rates = {"rr2.json": level_content(None, rate=2, duration=10.1), "rr8.json": level_content(None, rate=8, duration=4.0)}
    study = read_study([write_folder(tmp_path, "tiny_itl100_otl11_mixed_2xtp1", rates)])
    page = html.unescape(report.render(study, View(latency_mode="first_token")))
    assert "Best by median TTFT, without 1 saturated level<" in page and "Best by median TPOT<" in page
    assert "Left out as saturated, of what contains TTFT: 1 level of 1 arm" in page
    data = chart_data(report.render(study, View()))
    assert data["arms"][0]["late"] == [False, True]
    assert {"median_ttft_ms", "chunk_latency_ms", "first_token_interactivity", "chunk_interactivity"} <= set(data["queued"])
    assert "median_tpot_ms" not in data["queued"] and "token_interactivity" not in data["queued"]
