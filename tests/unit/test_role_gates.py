"""Whether engines of a pool did what a controller's table said: every kind of switch that does not switch is seen."""

import pytest

from pdbench.measure import level_gates, role_gates
from pdbench.measure.level_gates import ANY_ROLE, Asked, Snapshot, judge
from pdbench.serve.controller import Tick
from pdbench.serve.counters import summed
from pdbench.serve.pool import DECODE, PREFILL, Report


def ticks(seconds, does, says=None, hands_out=None):
    """Ticks of three engines, of which b is to prefill from second 5 on, and to decode again from second 20 on.

    Args:
        does: by second what b begins: prefill, decode or nothing.
        says: by second what b reports as its role, if that is not the one it was given.
        hands_out: whether a second hands the table out again.
    """
    begun = {name: {PREFILL: 0, DECODE: 0} for name in "abc"}
    found, role = [], DECODE
    for second in range(seconds):
        reports = [
            Report(replica_id=name, role={"a": PREFILL, "b": says(second, role) if says else role, "c": DECODE}[name],
                   running={PREFILL: 0, DECODE: 0}, ended=dict(begun[name]))
            for name in "abc"
        ]  # fmt: skip
        given = {5: PREFILL, 20: DECODE}.get(second)
        role = given or role
        changed = {"b": role} if given or (hands_out and hands_out(second)) else {}
        found.append(Tick(time="now", unix=100.0 + second, reports=reports, prefill=1, changed=changed, reason="", took_s=0.0))
        begun["a"][PREFILL] += 2
        begun["c"][DECODE] += 2
        if work := does(second, role):
            begun["b"][work] += 1
    return found


def follows(second, role):
    """Work of the new role from a second after the change on, as routers learn late."""
    return {5: DECODE, 20: PREFILL}.get(second, role)


def test_changes_that_are_followed_pass():
    gate = role_gates.moved(ticks(40, follows))
    assert gate.passed and gate.value == 2 and gate.seen.startswith("40 ticks, 2 changes of an engine's role, each followed")


def test_without_a_change_engines_do_what_they_are():
    assert role_gates.moved(ticks(5, follows)).passed
    strange = role_gates.moved(ticks(5, lambda second, role: PREFILL))
    assert strange.seen == "b, which is to decode, took 4 requests to prefill"


def test_a_switch_that_does_nothing_fails():
    gate = role_gates.moved(ticks(20, lambda *_: DECODE))
    assert not gate.passed and "b, which is to prefill, took 11 requests to decode" in gate.seen
    assert "b took no request to prefill in 14 s" in gate.seen


def test_an_engine_that_keeps_its_role_fails_although_the_table_is_handed_out_every_second():
    deaf = ticks(20, lambda *_: DECODE, says=lambda *_: DECODE, hands_out=lambda second: second > 5)
    gate = role_gates.moved(deaf)
    assert not gate.passed and "b was to prefill and still says decode" in gate.seen


def test_work_that_ends_late_is_not_new_work():
    long = ticks(20, lambda second, role: None)
    for tick in long:  # two decodes that began before the change end one by one after it
        late = max(0, int(tick.unix) - 110)
        (b,) = (one for one in tick.reports if one.replica_id == "b")
        b.ended[DECODE], b.running[DECODE] = min(2, late), 2 - min(2, late)
        b.ended[PREFILL] = max(0, int(tick.unix) - 107)
    assert role_gates.moved(long).passed


def test_a_pool_without_work_proves_nothing_and_fails_nothing():
    idle = ticks(20, follows)
    for one in (one for tick in idle for one in tick.reports):
        one.ended = {PREFILL: 0, DECODE: 0}
    assert role_gates.moved(idle).passed


def test_without_ticks_nothing_is_known():
    assert not role_gates.moved([]).passed


@pytest.mark.parametrize("followed", [True, False])
def test_a_level_under_a_controller(make_manifest, followed):
    """Counters of all engines together: an engine takes its own along."""
    some = ticks(40, follows if followed else lambda *_: DECODE)
    grown = {"requests": 20.0, "prefix_cache_queries": 100.0, "kv_transfers": 10.0, "kv_bytes": 1.0, "kv_seconds": 1.0}
    pools = [[report("a", 3), report("b", 4)], [report("a", 10), report("b", 7)]]
    before, after = (
        Snapshot(counters={ANY_ROLE: counted}, replicas={}, pool=pool, ticks=some)
        for counted, pool in zip([{}, grown], pools, strict=True)
    )
    bounds = {"ttft_ms": 1.0, "tpot_ms": 1.0, "tick_s": 1.0}
    launched = make_manifest("p1xtp1-d1xtp1").deployment.model_copy(update={"mode": "pd-pool", "controller": bounds})
    gates = {gate.name: gate for gate in judge(before, after, launched, Asked(requests=10, isl=10), None)}
    assert gates["requests"].passed and gates["kv-transfer"].passed and gates["prefix-cache"].passed
    assert gates["roles"].passed == followed and gates["roles"].seen.startswith("40 ticks") == followed


def report(name, decoded):
    return Report(replica_id=name, role=DECODE, running={PREFILL: 0, DECODE: 0}, ended={PREFILL: 5, DECODE: decoded})


def test_counters_of_roles_are_put_together():
    counters = {PREFILL: {"requests": 3.0}, DECODE: {"requests": 4.0, "kv_bytes": 7.0}, "ingress": {"fallback_requests": 1.0}}
    assert summed(counters, PREFILL, DECODE) == {"requests": 7.0, "kv_bytes": 7.0}
    assert level_gates.finished(counters) == 4
