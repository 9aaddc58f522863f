"""The planner on the public study's data: each layout predicted by a fit that no run of it took part in."""

import numpy as np
import pytest

from pdbench.planner import calibration
from pdbench.planner.model import quantile
from pdbench.planner.replicas import FITTED

LEVELS = (4, 8, 16, 32, 48, 64)
COLLOCATED = ("8xtp1", "4xtp2", "2xtp4", "1xtp8")
PD = ("1xtp1-1xtp2", "1xtp1-2xtp2", "2xtp1-1xtp2", "1xtp1-1xtp4", "1xtp2-1xtp2", "1xtp2-2xtp2", "1xtp2-3xtp2", "2xtp2-1xtp2",
      "3xtp2-1xtp2", "2xtp2-2xtp2", "1xtp2-1xtp4", "2xtp2-1xtp4", "1xtp4-1xtp4", "1xtp8-1xtp8")  # fmt: skip
KV_TOKENS = {1: 70_000, 2: 975_000, 4: 2_850_000, 8: 6_500_000}  # by the engines' logs
JUDGED = {"request_throughput": 0.05, "mean_tpot_ms": 0.07, "mean_ttft_ms": 0.15}


@pytest.fixture(scope="module")
def model(published):
    """A minute of CPU time: 18 fits to 17 layouts or more."""
    folders = [published / "archive" / f"gptoss_itl5000_otl250_mixed_{name}" for name in (*COLLOCATED, *PD)]
    study = calibration.read(folders, LEVELS)
    stack = calibration.stack_of(study)
    engine = calibration.engine_of(study, KV_TOKENS, None)
    return calibration.make_model(study, calibration.runs_of(study, True), engine, stack)


@pytest.fixture(scope="module")
def of_pd(model):
    return [error for error in model.errors if error.layout.startswith("p")]


def test_every_pd_layout_is_left_out_once(model, of_pd):
    assert model.left_out and len({error.layout for error in of_pd}) == len(PD) and len(of_pd) == len(PD) * len(LEVELS)


def test_the_only_layout_that_decodes_at_a_size_cannot_be_left_out(model):
    assert {error.layout for error in model.errors if not error.layout.startswith("p")} == set(COLLOCATED) - {"8xtp1"}


@pytest.mark.parametrize(("column", "bound"), JUDGED.items())
def test_left_out_layouts_are_missed_by_no_more_than_said(of_pd, column, bound):
    assert np.mean([abs(np.expm1(-error.ratios[column])) for error in of_pd]) < bound


@pytest.mark.parametrize("column", FITTED)
def test_intervals_hold_nine_in_ten(model, column):
    """Those of a layout are made of the errors of all others."""
    covered = []
    for layout in {error.layout for error in model.errors}:
        others = model.model_copy(update={"errors": [error for error in model.errors if error.layout != layout]})
        mine = [error for error in model.errors if error.layout == layout]
        covered += [abs(error.ratios[column]) <= others.width(column, error.level) for error in mine]
    assert 0.88 <= np.mean(covered) <= 0.95


def test_intervals_differ_by_level(model):
    """Where pools are full TTFT is missed by more than where they are not."""
    assert model.width("mean_ttft_ms", 64) > 1.2 * model.width("mean_ttft_ms", 16)
    assert quantile([error.ratios["mean_tpot_ms"] for error in model.errors]) < 0.15
