"""What an engine of a pool counts of its prompts and answers."""

from types import SimpleNamespace

import pytest

from pdbench.ratio import policy
from pdbench.serve.pool_work import EXPECTED, Work


class Clock:
    now = 10.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def work(clock):
    return Work(clock)


def usage(prompt=0, completion=0):
    return SimpleNamespace(usage=SimpleNamespace(prompt_tokens=prompt, completion_tokens=completion))


def test_its_numbers_are_those_of_a_report(work):
    report = policy.Report(engine="a", role="decode", **work.report())
    assert report.time_s == 10 and report.prompt_asked == report.decoded == report.decode_busy_s == 0


def test_a_prompt_waits_until_it_is_computed(work, clock):
    with work.prefill(list(range(500))) as computed:
        clock.now += 2
        seen = work.report()
        assert (seen["prompt_asked"], seen["waiting"], seen["prefilled"], seen["prefill_busy_s"]) == (500, 500, 0, 2)
        computed(500)
    clock.now += 3
    seen = work.report()
    assert (seen["waiting"], seen["prefilled"], seen["prefill_busy_s"]) == (0, 500, 2), "idle time is none of prefill"


def test_prompts_beside_each_other_keep_an_engine_busy_once(work, clock):
    with work.prefill([1] * 10):
        clock.now += 1
        with work.prefill([1] * 30):
            clock.now += 1
            assert work.report()["waiting"] == 40
        clock.now += 1
    assert work.report()["prefill_busy_s"] == 3
    assert work.report()["prefilled"] == 0, "neither said how many tokens it had: both failed"


@pytest.mark.parametrize("text", ["x" * 600, ["x" * 300, "x" * 300], [{"role": "user", "content": "x" * 600}]])
def test_text_is_counted_by_the_characters_of_a_token_that_were_seen(work, text):
    with work.prefill(text) as computed:
        assert work.report()["waiting"] == 150, "four characters, as long as nothing was seen"
        computed(300)
    with work.prefill("x" * 600):
        assert work.report()["waiting"] == 300


@pytest.mark.parametrize("prompt", [None, "", [], [{"role": "user", "content": None}]])
def test_nothing_has_no_tokens(work, prompt):
    with work.prefill(prompt) as computed:
        computed(0)
    assert work.report()["prompt_asked"] == 0


def piece(text):
    return f'data: {{"choices":[{{"text":"{text}"}}]}}\n\n'


def test_an_answer_is_to_come_until_it_has_come(work):
    with work.answer(64) as answer:
        assert work.report()["to_come"] == 64, "its prompt is computed elsewhere"
        answer.take([piece("a"), piece("b")])
        answer.take(piece("c"))
        seen = work.report()
        assert (seen["decoded"], seen["to_come"], seen["output_asked"]) == (2, 61, 64), "the first is no step of decode"
    assert work.report()["to_come"] == 0


def decode_times(work):
    return work.report()["decode_busy_s"], work.report()["decode_batch_s"]


def test_an_engine_decodes_from_the_first_token_of_an_answer_to_its_end(work, clock):
    with work.answer(64) as one:
        clock.now += 5  # its prompt is computed elsewhere
        assert decode_times(work) == (0, 0)
        one.take(piece("a"))
        clock.now += 2
        with work.answer(64) as other:
            clock.now += 1
            other.take(piece("a"))
            clock.now += 1
            assert decode_times(work) == (4, 5)
        clock.now += 1
    assert decode_times(work) == (5, 6)
    clock.now += 9
    assert decode_times(work) == (5, 6), "idle time is none of decode"


def test_steps_of_real_length_are_learned_from_short_answers(work, clock):
    """Answers of eight tokens 30 ms apart, one every 0.97 s: reports each second see one request under way, or none."""
    speeds, reports = policy.Speeds(policy.Bounds(1000, 60), policy.Settings()), []

    def pass_time(seconds):
        clock.now += seconds
        if clock.now >= 11 + len(reports):
            reports.append(policy.Report(engine="a", role="decode", **work.report()))

    for _ in range(60):
        with work.answer(8) as answer:
            answer.take(piece("a"))
            for _ in range(7):
                pass_time(0.03)
                answer.take(piece("a"))
        pass_time(0.76)
    for before, after in zip(reports, reports[1:]):
        speeds.learn(before, after)
    assert sum(speeds.step()) == pytest.approx(0.03, rel=0.01)


def test_pieces_of_several_tokens_are_put_right_at_the_end(work):
    with work.answer(64) as answer:
        answer.take([piece("a b c")] * 8)
        answer.take('data: {"choices":[],"usage":{"prompt_tokens":5,"total_tokens":69,"completion_tokens":64}}\n\n')
        answer.take("data: [DONE]\n\n")
    assert work.report()["decoded"] == 63


def test_a_response_in_one_piece_says_its_tokens_and_nothing_of_steps(work):
    with work.answer(None) as answer:
        assert work.report()["to_come"] == EXPECTED
        answer.take(usage(completion=7))
    assert work.report()["decoded"] == 0
    with work.answer(None):
        assert work.report()["to_come"] == 7, "as long as those before"


def test_an_answer_that_breaks_off_leaves_nothing_to_come(work, clock):
    with pytest.raises(RuntimeError), work.answer(64) as answer:
        answer.take([piece("a")] * 2)
        raise RuntimeError
    assert work.report()["to_come"] == 0 and work.report()["decoded"] == 1
    clock.now += 1
    assert decode_times(work) == (0, 0), "nor anything decoding"
