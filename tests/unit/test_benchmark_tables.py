"""What the benchmark of the serving path makes of the engines' counters."""

import pytest

from benchmarks import serving_path
from benchmarks.serving_path import CONTROL, STAGES, counted_since, in_engines, show

COUNTED = {"requests": 20.0, "first_token_seconds": 2.0, "decode_seconds": 6.3, "prompt_tokens": 10000.0}
PREFILL = {"requests": 20.0, "first_token_seconds": 4.0, "decode_seconds": 0.0}


def test_engines_clocks_tell_the_means_of_one_level():
    found = in_engines({"collocated": COUNTED}, osl=64)
    assert found == {"engine_ttft_ms": {"collocated": pytest.approx(100)}, "engine_tpot_ms": pytest.approx(5)}


def test_with_pd_a_first_token_takes_both_engines_and_d_decodes():
    found = in_engines({"prefill": PREFILL, "decode": COUNTED}, osl=64)
    assert found["engine_ttft_ms"] == {"prefill": pytest.approx(200), "decode": pytest.approx(100)}
    assert found["engine_tpot_ms"] == pytest.approx(5)


def test_counters_are_asked_until_all_requests_are_in_them(monkeypatch):
    answers = [{"decode": {"requests": count}, "prefill": {"requests": 9.0}, "ingress": {"fallback_requests": 0.0}}
               for count in (11.0, 13.0, 14.0)]  # fmt: skip
    monkeypatch.setattr(serving_path, "answer_of", lambda what: answers.pop(0))
    assert counted_since({"decode": {"requests": 10.0}}, 4) == {"decode": {"requests": 4.0}, "prefill": {"requests": 9.0}}


def test_requests_of_others_are_an_error(monkeypatch):
    monkeypatch.setattr(serving_path, "answer_of", lambda what: {"collocated": {"requests": 7.0}})
    monkeypatch.setattr(serving_path.time, "monotonic", iter((0.0, 6.0)).__next__)
    with pytest.raises(RuntimeError, match="4 requests were sent, and the engines counted 7: what else uses them"):
        counted_since({}, 4)


def row(arm: str, ttft: float) -> dict:
    latencies = dict.fromkeys(("median_ttft_ms", "mean_ttft_ms"), ttft) | dict.fromkeys(("median_tpot_ms", "mean_tpot_ms"), 5.0)
    within = {"engine_ttft_ms": {"prefill": 50.0, "decode": 20.0}, "engine_tpot_ms": 4.0}
    used = {"cpu_ms_per_token": dict.fromkeys(STAGES, 0.25), "cores": 1.5}
    what = {"layout": "p1xtp1-d1xtp1", "arm": arm, "level": 8, "pinned": False}
    return what | latencies | within | used | {"request_throughput": 2.0, "p99_itl_ms": 9.0}


def test_what_the_engines_did_not_take_is_outside(capsys):
    show([row(CONTROL, 80.0), row("ours", 100.0), row("ours", 120.0)], "p1xtp1-d1xtp1")
    lines = [line.replace(" ", "") for line in capsys.readouterr().out.replace("\u2502", "|").splitlines()]
    assert "|bare|8|80|50|20|10|5.0|4.0|" in lines
    assert "|ours|8|110|50|20|40|5.0|4.0|" in lines


def test_a_run_that_ended_before_its_control_tells_nothing(capsys):
    show([row("ours", 80.0)], "p1xtp1-d1xtp1")
    assert capsys.readouterr().out == ""
