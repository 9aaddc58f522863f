"""The figure of predictions against measurements: a point for each level, a bar for each interval."""

import numpy as np
import pytest

from pdbench.layout import Layout
from pdbench.output.figures import planned
from pdbench.planner.predicting import Checked, Prediction
from pdbench.planner.replicas import COLUMNS
from pdbench.planner.runs import Run
from pdbench.planner.simulator import Workload


def checked(layout, factor):
    """Two levels that were predicted `factor` times as high as measured."""
    measured = np.array([[2.0] + [10.0] * 8, [4.0] + [20.0] * 8])
    predictions = []
    for level, row in zip((4, 8), measured * factor, strict=True):
        values = dict(zip(COLUMNS, map(float, row), strict=True))
        intervals = {name: (value / 2, value * 3) for name, value in values.items()}
        predictions.append(Prediction(Layout.parse(layout), level, values, intervals, ()))
    run = Run(layout, layout, Layout.parse(layout), Workload(5000, 250), ((4, 20), (8, 40)), measured, ())
    return Checked(run, predictions, run.log_ratios(measured * factor))


def test_points_and_bars_are_those_of_the_check():
    figure = planned.against_measured([checked("4xtp2", 1.1), checked("p1xtp2-d2xtp2", 1.0)])
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == [
        "measured: Requests/s", "measured: Mean TPOT (ms)", "measured: Mean TTFT (ms)"]  # fmt: skip
    (points, _, (bars,)), *_ = panels[0].containers
    assert points.get_xdata() == pytest.approx([2, 4]) and points.get_ydata() == pytest.approx([2.2, 4.4])
    assert np.array([segment[:, 1] for segment in bars.get_segments()]) == pytest.approx(np.array([[1.1, 6.6], [2.2, 13.2]]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["4xtp2", "p1xtp2-d2xtp2"]
    low, high = panels[0].get_xlim()
    assert (low, high) == panels[0].get_ylim() and low < 1 and high > 13.2
