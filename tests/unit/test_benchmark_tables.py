"""What the benchmark of the serving path makes of the engines' counters."""

import pytest

from benchmarks.serving_path import CONTROL, STAGES, in_engines, show

ENGINE = {"requests": 10.0, "first_token_seconds": 1.0, "decode_seconds": 4.0, "prompt_tokens": 5000.0}
LATER = {"requests": 30.0, "first_token_seconds": 3.0, "decode_seconds": 10.3, "prompt_tokens": 15000.0}


def test_engines_clocks_tell_the_means_of_one_level():
    found = in_engines({"collocated": ENGINE}, {"collocated": LATER, "ingress": {"fallback_requests": 0.0}}, osl=64)
    assert found["engine_ttft_ms"] == {"collocated": pytest.approx(100)}
    assert found["engine_tpot_ms"] == pytest.approx(1e3 * 6.3 / 20 / 63)


def test_with_pd_a_first_token_takes_both_engines_and_d_decodes():
    prefill = {"requests": 40.0, "first_token_seconds": 8.0, "decode_seconds": 0.0}
    found = in_engines({}, {"prefill": prefill, "decode": LATER}, osl=64)
    assert found["engine_ttft_ms"] == {"prefill": pytest.approx(200), "decode": pytest.approx(100)}
    assert found["engine_tpot_ms"] == pytest.approx(1e3 * 10.3 / 30 / 63)


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
