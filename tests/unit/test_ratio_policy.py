"""The policy of the P:D ratio: on recorded reports, on made ones, and in what must hold for any."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdbench.configs import ROOT
from pdbench.ratio.policy import SUMS, Bounds, Policy, Report, Settings, Speeds

BOUNDS = Bounds(ttft_ms=1000, tpot_ms=12)
SETTINGS = Settings(prefill_rate=20_000, step_alpha_s=0.006, step_beta_s=0.0002)  # so 2,500 output tokens/s at 12 ms
PROMPTS = {"prompt": 60_000, "output": 600}  # tokens/s that want three of four engines to prefill
ANSWERS = {"prompt": 4_000, "output": 6_000}  # one of four
RECORDED = json.loads((ROOT / "tests/data/ratio_reports.json").read_text())


def report(engine="e0", role="decode", time_s=0.0, **values):
    """Return a report of an engine that has done nothing but what is given."""
    return Report(engine, role, time_s, **{**dict.fromkeys((*SUMS, "waiting", "to_come"), 0), **values})


class Pool:
    """Engines that are asked for tokens at a rate and say so; they take the roles that the policy gives them."""

    def __init__(self, prefill=2, engines=4, settings=SETTINGS):
        self.policy = Policy(BOUNDS, settings)
        self.now = 0.0
        self.reports = {
            name: report(name, "prefill" if number < prefill else "decode")
            for number, name in enumerate(f"e{number}" for number in range(engines))
        }
        self.decisions = []

    def tick(self, prompt=0, output=0, lost=(), **present):
        """Ask for tokens for a second, spread over all engines, and let the policy decide."""
        self.now += 1
        for name, last in self.reports.items():
            self.reports[name] = replace(
                last, time_s=self.now, prompt_asked=last.prompt_asked + prompt / len(self.reports),
                output_asked=last.output_asked + output / len(self.reports), **present,
            )  # fmt: skip
        decision = self.policy.decide(self.now, [each for name, each in self.reports.items() if name not in lost])
        for name, role in decision.roles.items():
            if name in self.reports:
                self.reports[name] = replace(self.reports[name], role=role)
        self.decisions.append(decision)
        return decision

    def ticks(self, count, **load):
        return [self.tick(**load).prefill for _ in range(count)]


def test_the_ratio_follows_recorded_reports_as_it_did():
    policy = Policy(Bounds(**RECORDED["bounds"]))
    ticks = RECORDED["ticks"]
    found = [
        policy.decide(tick["now"], [Report(**dict(zip(RECORDED["fields"], each))) for each in tick["reports"]])
        for tick in ticks
    ]
    assert [decision.prefill for decision in found] == [tick["prefill"] for tick in ticks]
    # The load turns at 40, 80 and 120 s.
    at = {tick["now"]: decision.prefill for tick, decision in zip(ticks, found)}
    assert [at[second] for second in (30, 70, 110, 150)] == [2, 1, 2, 1]


@pytest.mark.parametrize(
    ("before", "after", "ratio", "other"), [(PROMPTS, ANSWERS, 3, 1), (ANSWERS, PROMPTS, 1, 3)], ids=["A to B", "B to A"]
)
def test_a_shift_is_followed_within_two_ticks(before, after, ratio, other):
    pool = Pool()
    assert pool.ticks(10, **before)[-1] == ratio
    waits = {"waiting": 0, "to_come": 6_000} if other == 1 else {"waiting": 15_000, "to_come": 100}
    assert abs(pool.ticks(2, **after, **waits)[-1] - other) <= 1
    assert pool.ticks(4, **after, **waits)[-1] == other


@pytest.mark.parametrize(("before", "after", "other"), [(PROMPTS, ANSWERS, 1), (ANSWERS, PROMPTS, 3)])
def test_a_shift_is_followed_by_arrivals_alone(before, after, other):
    pool = Pool()
    pool.ticks(10, **before)
    assert pool.ticks(8, **after)[-1] == other


@pytest.mark.parametrize(
    "load",
    [{}, {"prompt": 30_000, "output": 3_750}, {"prompt": 300_000, "output": 37_500, "waiting": 100_000, "to_come": 12_500}],
    ids=["idle", "balanced", "both overloaded"],
)
def test_nothing_moves_where_no_ratio_is_better(load):
    assert set(Pool().ticks(60, **load)) == {2}


def test_a_light_load_is_left_where_it_is():
    assert set(Pool().ticks(60, prompt=12_000, output=100)) == {2}
    assert Pool(settings=replace(SETTINGS, calm=0)).ticks(60, prompt=12_000, output=100)[-1] == 3


def test_no_two_moves_within_the_cooldown_however_the_load_jumps():
    pool = Pool()
    for second in range(40):
        pool.tick(**(PROMPTS if second % 2 else ANSWERS), waiting=50_000 * (second % 2), to_come=20_000 * (1 - second % 2))
    numbers = [decision.prefill for decision in pool.decisions]
    moves = [tick for tick in range(1, len(numbers)) if numbers[tick] != numbers[tick - 1]]
    assert len(moves) > 5 and all(later - earlier >= SETTINGS.cooldown_s for earlier, later in zip(moves, moves[1:]))
    assert any("last move 1.0 s ago" in decision.reason for decision in pool.decisions)


def test_a_move_needs_the_gain():
    costs, roles = Pool().tick(waiting=12_500, to_come=2_500 * 1.1 / 4).costs, Pool().tick(waiting=12_500, to_come=625).roles
    assert (costs[2], costs[3]) == pytest.approx((1.25, 1.1)) and list(roles.values()).count("prefill") == 3
    assert Pool().tick(waiting=12_500, to_come=2_500 * 1.1 / 4).prefill == 2


def test_the_horizon_is_the_longer_of_reaction_and_ttft_and_a_tick():
    assert Policy(Bounds(3000, 12)).horizon_s == 4 and Policy(Bounds(100, 12)).horizon_s == pytest.approx(1.6)


def test_a_report_seen_before_is_no_news():
    pool = Pool(prefill=1)
    pool.ticks(3, **ANSWERS)
    stale, before = list(pool.reports.values()), pool.decisions[-1]
    assert pool.policy.decide(pool.now, stale).costs == before.costs
    assert pool.policy.decide(pool.now + 11, stale).reason.startswith("fewer than two engines report")


def test_the_engines_with_least_to_do_change_their_role():
    pool = Pool(prefill=1)
    for name, tokens in (("e1", 900), ("e2", 100), ("e3", 500)):
        pool.reports[name] = replace(pool.reports[name], to_come=tokens)
    pool.reports["e0"] = replace(pool.reports["e0"], waiting=1_000_000)
    decision = pool.tick()
    assert decision.roles == {"e0": "prefill", "e1": "decode", "e2": "prefill", "e3": "prefill"}
    assert decision.reason.startswith("1 -> 3 prefill: ")
    pool = Pool(prefill=3)
    for name, tokens in (("e0", 900), ("e1", 100), ("e2", 500)):
        pool.reports[name] = replace(pool.reports[name], waiting=tokens)
    pool.reports["e3"] = replace(pool.reports["e3"], to_come=30_000)
    assert pool.tick().roles == {"e0": "prefill", "e1": "decode", "e2": "decode", "e3": "decode"}


def test_a_lost_report_changes_nothing():
    whole, lossy = Pool(), Pool()
    for second in range(40):
        load = PROMPTS if second // 10 % 2 else ANSWERS
        lost = (f"e{second % 4}",) if second % 3 else ()
        assert whole.tick(**load).prefill == lossy.tick(**load, lost=lost).prefill
    assert whole.decisions[-1].costs == pytest.approx(lossy.decisions[-1].costs, rel=0.01)


def test_without_any_report_roles_stay():
    pool = Pool()
    before = pool.ticks(10, **PROMPTS) and pool.decisions[-1]
    for _ in range(30):
        assert pool.tick(lost=pool.reports).roles == before.roles
    assert pool.decisions[-1].reason == "fewer than two engines report: nothing to share out"


def test_an_engine_that_starts_again_or_is_new_changes_nothing_else():
    pool = Pool()
    pool.ticks(10, **ANSWERS)
    before, costs = pool.decisions[-1].roles, pool.decisions[-1].costs
    pool.reports["e1"] = report("e1", "prefill", pool.now)  # as at its launch; the table's role counts
    assert pool.ticks(2, **ANSWERS) == [1, 1] and pool.decisions[-1].costs == pytest.approx(costs)
    assert pool.decisions[-1].roles == before
    pool.reports["e4"] = report("e4", "decode", pool.now)
    assert pool.tick(**ANSWERS).roles == before | {"e4": "decode"}


def test_a_stage_whose_only_engine_is_silent_gets_another_at_once():
    pool = Pool(prefill=1)
    pool.ticks(3, **ANSWERS)
    numbers = [pool.tick(**ANSWERS, lost=("e0",)) for _ in range(12)]
    assert "a stage had no engine" in numbers[10].reason
    assert [role for name, role in numbers[-1].roles.items() if name != "e0"].count("prefill") == 1
    for roles in ("prefill", "decode"):  # all of one role, at the launch
        policy = Policy(BOUNDS, SETTINGS)
        decision = policy.decide(0, [report(f"e{number}", roles, to_come=9e5) for number in range(3)])
        assert decision.prefill == 1 and sorted(decision.roles.values()) == ["decode", "decode", "prefill"]


@pytest.mark.parametrize("value", [math.nan, -1, math.inf, None, "1", True])
@pytest.mark.parametrize("name", ["time_s", "prompt_asked", "prefill_busy_s", "decode_batch_s", "waiting", "to_come"])
def test_a_report_that_cannot_be_is_refused_by_its_field(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        report(**{name: value})


def test_settings_and_bounds_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="^tpot_ms is nan"):
        Bounds(1000, math.nan)
    with pytest.raises(ValueError, match="^step_beta_s is 0: must be above 0"):
        Settings(step_beta_s=0)
    with pytest.raises(ValueError, match="^role is 'both': must be one of prefill, decode"):
        report(role="both")


@pytest.mark.parametrize(
    ("now", "reports", "message"),
    [
        (4, [], "now is 4, after 5"),
        (math.nan, [], "now is nan"),
        (6, [report("e0", time_s=4)], "time_s of e0 goes back from 5.0 to 4"),
        (6, [report("e1", time_s=6), report("e1", time_s=6)], "engine: two reports"),
    ],
)
def test_what_is_refused_leaves_the_policy_as_it_was(now, reports, message):
    pool = Pool()
    pool.ticks(5, **PROMPTS)
    with pytest.raises(ValueError, match=message):
        pool.policy.decide(now, [report("e2", time_s=6), *reports])
    assert pool.tick(**PROMPTS).prefill == 3


tokens = st.integers(0, 10**6)
engines = st.lists(st.tuples(st.sampled_from(("prefill", "decode")), tokens, tokens), min_size=2, max_size=8)


@given(engines, st.integers(1, 10**6), st.data())
@example([("prefill", 0, 0), ("decode", 0, 0)], 1, None)
def test_more_waiting_prompt_tokens_never_give_fewer_prefill_engines(pool, more, data):
    of = data.draw(st.integers(0, len(pool) - 1)) if data else 0

    def prefill(extra):
        reports = [
            report(f"e{number}", role, waiting=waiting + extra * (number == of), to_come=to_come)
            for number, (role, waiting, to_come) in enumerate(pool)
        ]
        decision = Policy(BOUNDS, SETTINGS).decide(0, reports)
        assert 1 <= decision.prefill <= len(pool) - 1
        assert list(decision.roles.values()).count("prefill") == decision.prefill
        assert decision.costs[decision.prefill] <= decision.costs.get(sum(role == "prefill" for role, *_ in pool), math.inf)
        return decision.prefill

    assert prefill(more) >= prefill(0)


@given(st.lists(st.tuples(tokens, tokens, tokens, tokens), max_size=30), st.integers(2, 6))
def test_each_stage_keeps_an_engine_whatever_is_asked(loads, count):
    pool = Pool(prefill=1, engines=count)
    for prompt, output, waiting, to_come in loads:
        decision = pool.tick(prompt=prompt, output=output, waiting=waiting, to_come=to_come)
        assert 1 <= decision.prefill <= count - 1 and set(decision.costs) == set(range(1, count))


def test_speeds_are_the_priors_until_enough_was_seen_then_what_was_measured():
    speeds = Speeds(BOUNDS, SETTINGS)
    assert (speeds.prefill(), speeds.step()) == (20_000, (0.006, 0.0002)) and speeds.decode() == pytest.approx(2500)
    start = report()
    speeds.learn(start, report(time_s=1, prefilled=30_000, prefill_busy_s=1))
    assert speeds.prefill() == 20_000
    speeds.learn(start, report(time_s=2, prefilled=60_000, prefill_busy_s=2))
    assert speeds.prefill() == pytest.approx(30_000)


def decoded(alpha, beta, batch, busy=1.0, **others):
    """Return a report of an engine that began 1 s ago and has decoded a batch for `busy` of it."""
    tokens = batch * busy / (alpha + beta * batch)
    return report(time_s=1, decoded=tokens, decode_busy_s=busy, decode_batch_s=batch * busy, **others)


def learn_steps(speeds, alpha, beta, batches, busy=1.0):
    for batch in batches:
        speeds.learn(report(), decoded(alpha, beta, batch, busy))


def test_step_times_at_one_batch_move_the_prior_line_and_at_several_give_their_own():
    speeds = Speeds(BOUNDS, SETTINGS)
    learn_steps(speeds, 0.012, 0.0004, [10] * 5)
    assert speeds.step() == pytest.approx((0.012, 0.0004))
    learn_steps(speeds, 0.008, 0.0001, [8, 16, 32, 64] * 100)
    alpha, beta = speeds.step()
    assert alpha + 40 * beta == pytest.approx(0.012, rel=0.01) and speeds.decode() == pytest.approx(40 / 0.012, rel=0.03)


def test_an_engine_that_mostly_waits_for_prompts_is_no_slow_one():
    """Answers of a few tokens leave it idle most of the time: a pool of real engines, taken for slow, kept its ratio."""
    speeds = Speeds(BOUNDS, SETTINGS)
    learn_steps(speeds, 0.006, 0.0002, [1] * 100, busy=0.05)
    assert speeds.step() == pytest.approx((0.006, 0.0002)) and speeds.decode() == pytest.approx(2500)


def test_a_second_in_which_an_engine_stalls_makes_it_no_slow_one():
    """As seen on two cores: 7 tokens of 4 requests in a second, between seconds of 30 steps."""
    speeds = Speeds(BOUNDS, SETTINGS)
    learn_steps(speeds, 0.006, 0.0002, [1, 2, 4] * 4)
    speeds.learn(report(), report(time_s=1, decoded=7, decode_busy_s=1, decode_batch_s=4))
    assert 0.0064 <= speeds.step()[0] + 2 * speeds.step()[1] < 1.1 * 0.0064
    assert speeds.decode() > 600, "2500 without that second; 19 if it weighed as much as any other"


def test_prefills_and_empty_batches_say_nothing_of_step_times():
    speeds = Speeds(BOUNDS, SETTINGS)
    for _ in range(10):
        speeds.learn(report(), decoded(0.5, 0, 4, prefill_busy_s=0.5, prefilled=9))
        speeds.learn(report(), report(time_s=1))
        speeds.learn(report(), report(time_s=1, decode_busy_s=0.01, decode_batch_s=0.01))  # no token yet
    assert speeds.step() == (0.006, 0.0002)


def test_a_bound_below_any_step_counts_one_request_at_a_time():
    assert Speeds(Bounds(1000, 1), SETTINGS).decode() == pytest.approx(1 / 0.0062)
    assert Speeds(Bounds(1000, 1e6), SETTINGS).decode() == pytest.approx(256 / (0.006 + 0.0002 * 256))
