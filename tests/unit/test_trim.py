"""Levels made small enough for a repository: what stays, what goes, and what is left alone."""

import json
import shutil
import sys

import pytest

from pdbench.read import trim
from pdbench.read.results import read_results

NAME = "tiny_itl100_otl11_mixed_x_2xtp1"


def run(monkeypatch, *folders):
    monkeypatch.setattr(sys, "argv", ["trim", *map(str, folders)])
    return trim.main()


@pytest.fixture
def folder(tmp_path, write_folder, level_content, lawful):
    """Write a folder of two levels, whose times have as many digits as a client's."""
    content = level_content(requests=20, osl=11, concurrency=4)
    content |= {
        "input_lens": [100] * 20, "output_lens": [11] * 20, "ttfts": [0.1 + 1e-9 * i for i in range(20)],
        "itls": [[0.0123456789012345 + 1e-5 * i] * 10 for i in range(20)],
        "start_times": [1795769705.1234567 + 0.23 * (i // 4) for i in range(20)],
        "generated_texts": ["word " * 11] * 20, "errors": [""] * 20,
    }  # fmt: skip
    content = lawful(content)
    return write_folder(tmp_path, NAME, {"conc4.json": content, "conc4_rep2.json": content})


def test_times_are_microseconds_and_texts_are_gone(folder, monkeypatch, capsys):
    before = json.loads((folder / "conc4.json").read_text())
    numbers = read_results([folder])
    assert run(monkeypatch, folder) == 0
    after = json.loads((folder / "conc4.json").read_text())
    assert list(after) == [key for key in before if key != "generated_texts"]
    assert after["itls"][3] == [0.012376] * 10 and after["start_times"][0] == 1795769705.123457
    assert {key: after[key] for key in after if key not in trim.TIMES} == {
        key: before[key] for key in after if key not in trim.TIMES
    }
    assert read_results([folder])["p95_itl_ms"].tolist() == pytest.approx(numbers["p95_itl_ms"].tolist(), abs=1e-3)
    size = (folder / "conc4_rep2.json").stat().st_size
    assert size < len(json.dumps(before)) / 1.8 and capsys.readouterr().out.startswith(f"trim: {folder}: ")
    assert [path.name for path in sorted(folder.iterdir())] == ["conc4.json", "conc4_rep2.json"]


def test_a_second_time_nothing_changes(folder, monkeypatch):
    run(monkeypatch, folder)
    once = (folder / "conc4.json").read_bytes()
    run(monkeypatch, folder)
    assert (folder / "conc4.json").read_bytes() == once


def test_a_level_without_details_stays_as_it_is(tmp_path, write_folder, level_content, monkeypatch):
    folder = write_folder(tmp_path, NAME, {"conc4.json": level_content(4)})
    before = json.loads((folder / "conc4.json").read_text())
    assert run(monkeypatch, folder) == 0
    assert json.loads((folder / "conc4.json").read_text()) == before


def test_where_requests_decode_in_step_their_spread_may_change_by_less_than_a_microsecond(
    tmp_path, write_folder, level_content, lawful, make_manifest, monkeypatch
):  # fmt: skip
    content = level_content(detailed=True, requests=20, osl=11) | {"start_times": [1.5] * 20, "max_concurrency": 20}
    content |= {"itls": [[0.0123451 + 2e-7 * (i % 3)] * 10 for i in range(20)], "ttfts": [0.1 + 0.0003 * i for i in range(20)]}
    alone = write_folder(tmp_path, NAME.replace("mixed", "decode-only"), {"conc20.json": lawful(content)})
    make_manifest("2xtp1", "collocated", phase="decode-only", decode_bench=True, gpus=2).write(alone)
    assert 0 < read_results([alone])["std_tpot_ms"].max() < 1e-3 and run(monkeypatch, alone) == 0


def test_of_a_folder_whose_numbers_would_change_nothing_is_written(folder, monkeypatch, capsys):
    before = (folder / "conc4.json").read_bytes()
    monkeypatch.setattr(trim, "TOLERANCE", 1e-15)
    assert run(monkeypatch, folder) == 2
    assert capsys.readouterr().err.endswith("would change by more than 0.0%: left as it is\n")
    assert (folder / "conc4.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_a_folder_that_cannot_be_read_is_one_line(folder, content, monkeypatch, capsys):
    if content is None:
        shutil.rmtree(folder)
    else:
        (folder / "conc4_rep2.json").write_text(content)
    assert run(monkeypatch, folder) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trim: error: {folder}") and said.count("\n") == 1
