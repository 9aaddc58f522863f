"""Levels, seeds and folder names."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdbench.workload import PHASES, Level, RunName, level_seed, parse_levels, phase_lengths

repeats = st.integers(1, 50)
concurrencies = st.builds(Level, st.just("concurrency"), st.integers(1, 10**7).map(float), repeats)
rates = st.builds(Level, st.just("request-rate"), st.floats(1e-6, 1e6), repeats)
words = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-."), min_size=1)
lengths = st.integers(1, 10**6)


@given(concurrencies | rates)
@example(Level("request-rate", 0.5))
@example(Level("concurrency", 1234567.0))  # seven digits: `:g` would round and write an exponent
def test_a_file_name_names_its_level(level):
    assert Level.from_filename(level.filename) == level


@pytest.mark.parametrize(
    ("filename", "level"),
    [
        ("conc8.json", Level("concurrency", 8)),
        ("conc8_rep2.json", Level("concurrency", 8, 2)),
        ("rr2.json", Level("request-rate", 2)),
        ("rr2.5.json", Level("request-rate", 2.5)),
        ("conc128_rr4.json", Level("request-rate", 4)),
    ],
)
def test_file_names(filename, level):
    assert Level.from_filename(filename) == level


@pytest.mark.parametrize(
    "filename",
    ["conc.json", "conc0.json", "conc04.json", "conc4", "conc4.json.bad", "conc4.5.json", "conc-4.json",
     "rr0.json", "rr4.0.json", "conc4_rep1.json", "conc4_rep0.json", "conc4_conc8.json", "manifest.json",
     "conc1\u0664.json"],
)  # fmt: skip
def test_file_names_refused(filename):
    with pytest.raises(ValueError, match=r"expected conc<K>\.json, rr<R>\.json or shift<X>\.json"):
        Level.from_filename(filename)


nearly_file_names = st.from_regex(r"(conc\d{1,3}_)?(conc|rr|shift)\d{1,2}(\.\d)?(_rep\d)?\.json", fullmatch=True)


@given(st.text() | nearly_file_names)
@example("conc128_rr4.json")
@example("rr1_rr2.json")
def test_any_file_name_is_a_level_or_refused(filename):
    try:
        level = Level.from_filename(filename)
    except ValueError as error:
        assert repr(filename) in str(error)
    else:
        assert filename.endswith(level.filename)


def test_requests_of_a_level():
    assert Level("concurrency", 8).num_prompts() == 40
    assert Level("request-rate", 8).num_prompts() == 500


def test_levels_from_text():
    assert [level.value for level in parse_levels("concurrency", "all")] == [4, 8, 16, 32, 48, 64]
    assert [level.value for level in parse_levels("request-rate", "all")] == list(range(1, 11))
    assert parse_levels("concurrency", "4, 16") == [Level("concurrency", 4), Level("concurrency", 16)]
    assert parse_levels("request-rate", "0.5,2") == [Level("request-rate", 0.5), Level("request-rate", 2)]


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        ("concurrency", "4,2.5", "'2.5' is not allowed: give 'all' or whole numbers"),
        ("concurrency", "", "'' is not allowed"),
        ("concurrency", "4,,8", "'' is not allowed"),
        ("concurrency", "0", "'0' is not allowed"),
        ("concurrency", "four", "'four' is not allowed"),
        ("request-rate", "0.0", "'0.0' is not allowed: give 'all' or positive numbers"),
        ("request-rate", "-1", "'-1' is not allowed"),
        ("request-rate", "inf", "'inf' is not allowed"),
        ("request-rate", "2,2.0", "names a level twice"),
    ],
)
def test_levels_refused(kind, text, what):
    with pytest.raises(ValueError, match=what):
        parse_levels(kind, text)


@given(st.integers(0, 2**31), st.sets(concurrencies | rates, min_size=2, max_size=30))
def test_no_two_levels_share_their_prompts(base, levels):
    seeds = {level_seed(base, level, purpose) for level in levels for purpose in ("measure", "warmup")}
    assert len(seeds) == 2 * len(levels)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_seed_is_the_same_tomorrow_and_another_for_another_base():
    level = Level("concurrency", 4)
    # The first 31 bits of sha256("0/concurrency/4/1/measure"): another value would change published runs.
    assert level_seed(0, level) == level_seed(0, Level("concurrency", 4.0)) == 2133065353
    assert level_seed(1, level) != level_seed(0, level)


@given(st.builds(RunName, words, lengths, lengths, st.sampled_from(PHASES), words))
def test_a_folder_name_is_read_back(run):
    assert RunName.parse(str(run)) == run


@pytest.mark.parametrize(
    ("folder", "run"),
    [
        ("gptoss_itl5_otl2_mixed_baseline_2xtp4", RunName("gptoss", 5, 2, "mixed", "baseline_2xtp4")),
        ("gptoss_itl10000_otl500_8xtp1", RunName("gptoss", 10000, 500, "mixed", "8xtp1")),
        ("gptoss_itl5000_otl250_prefill-only_1xtp2", RunName("gptoss", 5000, 250, "prefill-only", "1xtp2")),
        ("gpt_oss_itl1_otl2_mixed_mixed", RunName("gpt_oss", 1, 2, "mixed", "mixed")),
    ],
)
def test_folder_names(folder, run):
    assert RunName.parse(folder) == run


@pytest.mark.parametrize(
    "folder",
    ["", "gptoss", "gptoss_itl0_otl250_mixed_x", "gptoss_itl5000_mixed_x", "_itl1_otl1_x", "m_itl1_otl1",
     "m_itl01_otl1_x", "m_itl1_otl1_"],
)  # fmt: skip
def test_folder_names_refused(folder):
    with pytest.raises(ValueError, match="expected {model}_itl{ISL}_otl{OSL}_{phase}_{name}"):
        RunName.parse(folder)


def test_lengths_of_a_phase():
    assert phase_lengths("mixed", 5000, 250) == (5000, 250)
    assert phase_lengths("prefill-only", 5000, 250) == (5000, 1)
    assert phase_lengths("decode-only", 5000, 250) == (1, 250)
    assert phase_lengths("decode-only", 5000, 250, decode_bench=True) == (5000, 250)
    assert phase_lengths("mixed", 5000, 250, decode_bench=True) == (5000, 250)
