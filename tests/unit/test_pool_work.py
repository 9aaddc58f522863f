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
    assert report.time_s == 10 and report.prompt_asked == report.generated == report.decoding == 0


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


def test_an_answer_is_to_come_until_it_has_come(work):
    with work.answer(64) as answer:
        assert (work.report()["to_come"], work.report()["decoding"]) == (64, 0), "its prompt is computed elsewhere"
        answer.take(['data: {"choices":[{"text":"a"}]}\n\n', 'data: {"choices":[{"text":"b"}]}\n\n'])
        answer.take('data: {"choices":[{"text":"c"}]}\n\n')
        seen = work.report()
        assert (seen["generated"], seen["to_come"], seen["decoding"], seen["output_asked"]) == (3, 61, 1, 64)
    assert (work.report()["to_come"], work.report()["decoding"]) == (0, 0)


def test_pieces_of_several_tokens_are_put_right_at_the_end(work):
    with work.answer(64) as answer:
        answer.take(['data: {"choices":[{"text":"a b c"}]}\n\n'] * 8)
        answer.take('data: {"choices":[],"usage":{"prompt_tokens":5,"total_tokens":69,"completion_tokens":64}}\n\n')
        answer.take("data: [DONE]\n\n")
    assert work.report()["generated"] == 64


def test_a_response_in_one_piece_says_its_tokens(work):
    with work.answer(None) as answer:
        assert work.report()["to_come"] == EXPECTED
        answer.take(usage(completion=7))
    assert work.report()["generated"] == 7
    with work.answer(None):
        assert work.report()["to_come"] == 7, "as long as those before"


def test_an_answer_that_breaks_off_leaves_nothing_to_come(work):
    with pytest.raises(RuntimeError), work.answer(64) as answer:
        answer.take('data: {"choices":[{"text":"a"}]}\n\n')
        raise RuntimeError
    assert work.report()["to_come"] == 0 and work.report()["generated"] == 1
