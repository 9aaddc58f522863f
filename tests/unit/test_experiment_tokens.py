"""Which arms of an experiment save the tokens that PD arms are compared with; commands are recorded, not run."""

import pytest

from pdbench.manifest import LevelRecord
from pdbench.measure import experiment_plan as plan
from pdbench.measure import experiment_run
from pdbench.measure import experiment_steps as steps
from pdbench.measure.experiment import load_experiment, select
from pdbench.measure.experiment_steps import tokens_file
from tests.helpers.recorded_run import Recorded
from tests.helpers.small_experiment import small_experiment

PD = "pack_p1xtp1-d1xtp1"
FOUR = [
    {"layout": "2xtp1"}, {"layout": "2xtp1", "phase": "decode-only"}, {"layout": "1xtp2"},
    {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack"},
]  # fmt: skip


def in_blocks(folder, arms):
    path = small_experiment(folder, arms=arms, blocks=3)
    path.write_text(path.read_text().replace("repeats: 2\n", ""))
    return load_experiment(path)


@pytest.fixture
def four(tmp_path):
    """An experiment of four arms in three blocks."""
    return in_blocks(tmp_path, FOUR)


@pytest.mark.parametrize(
    ("labels", "saves"),
    [
        ([PD], []), (["2xtp1"], ["2xtp1"]), (["1xtp2"], ["1xtp2"]), (["decode-only_2xtp1"], []),
        (["decode-only_2xtp1", "1xtp2"], ["1xtp2"]), (["2xtp1", "1xtp2", PD], ["2xtp1"]),
    ],
)  # fmt: skip
def test_the_first_collocated_arm_that_is_measured_saves_them(four, tmp_path, labels, saves):
    """As where calls of run_experiment.py name one arm each, the PD arm in a later one."""
    part = select(four, labels, None)
    assert [one.arm.label for one in plan.rounds("small", part, tmp_path, 2) if "--save" in str(one.steps)] == saves


def test_without_a_pd_arm_in_the_file_nothing_is_saved(tmp_path):
    alone = load_experiment(small_experiment(tmp_path, arms=FOUR[:3]))
    assert alone.reference is None and "--save" not in plan.script("small", alone, tmp_path)


def test_the_first_block_begins_with_it(four, tmp_path):
    for labels, first in ((["decode-only_2xtp1", "1xtp2", PD], "1xtp2"), (["decode-only_2xtp1", PD], "decode-only_2xtp1")):
        for name in "abcdefgh":
            assert plan.drawn(name, select(four, labels, None), 1)[0].label == first
    without_pd = in_blocks(tmp_path, FOUR[:3])
    assert {plan.drawn(name, without_pd, 1)[0].label for name in "abcdefgh"} == {"2xtp1"}, "the first of the file"


@pytest.fixture
def run(four, tmp_path, monkeypatch):
    """Return what runs some of the arms, in one block."""
    monkeypatch.setattr(experiment_run, "measured_seconds", lambda *args: 0.0)

    def of(labels, block):
        found = Recorded(select(four, labels, None), tmp_path / "results")
        found.whole, found.only = four, block
        found.all()
        return [(arm, what) for arm, what in found.ran if what in ("check", "sweep")]

    return of


def test_arms_that_are_measured_one_by_one_are_compared(run):
    with pytest.raises(ValueError, match=f"block 3 measures {PD} before any arm .*: copy it .*, such as --arms 2xtp1$"):
        run([PD], 3)
    assert run(["1xtp2"], 3) == [("1xtp2", "check"), ("1xtp2", "sweep")]
    assert run([PD], 3) == [(PD, "check"), (PD, "sweep")]


def test_tokens_that_are_there_are_replaced_by_the_files_own_reference_alone(run, capsys):
    assert run(["1xtp2"], 2) == [("1xtp2", "check"), ("1xtp2", "sweep")]
    assert "stays as it is" not in capsys.readouterr().out
    assert run(["1xtp2"], 3) == [("1xtp2", "sweep")]
    assert "small_tokens.json stays as it is: 1xtp2 saves no other" in capsys.readouterr().out.replace("\n", "")
    assert run(["2xtp1"], 2) == [("2xtp1", "check"), ("2xtp1", "sweep")]


def test_some_arms_need_no_tokens_where_one_of_them_saves_them_first(four, run):
    part = select(four, ["1xtp2", PD], None)
    block = next(block for block in (1, 2, 3) if not plan.drawn("small", part, block)[0].is_pd)
    assert run(["1xtp2", PD], block)[:3] == [("1xtp2", "check"), ("1xtp2", "sweep"), (PD, "check")]


def test_the_recipe_of_some_arms_saves_the_tokens_that_it_needs(four, tmp_path, make_manifest):
    known = {"command": "vllm bench serve", "launched": "now", "seed": 1, "warmup_seed": 2, "started": "now", "ended": "now"}
    for arm in four.arms[2:]:
        (folder,) = steps.folders("small", arm, four, tmp_path)
        folder.mkdir()
        manifest = make_manifest()
        manifest.levels = [
            LevelRecord(level=f"conc{n}_rep3", num_prompts=5 * n, ok=True, block=3, machines=["here"], **known) for n in (1, 2)
        ]
        manifest.write(folder)
        for n in (1, 2):
            (folder / f"conc{n}_rep3.json").write_text("{}")
    recipe = plan.script("small", four, tmp_path, measured=True)
    assert recipe.count("--against") == 1 and recipe.count(f"--save {tokens_file('small', tmp_path)}\n") == 1
    assert "--layout 2xtp1" not in recipe
