"""The planner's CUDA graphs: which sizes engines have, and that decode steps are padded to them."""

from types import SimpleNamespace

import pytest

from pdbench.layout import Layout
from pdbench.planner.costs import Engine, costs_of, names_of, start_of
from pdbench.planner.runs import graphs_of


def test_a_decode_step_wakes_experts_for_the_whole_of_its_cuda_graph():
    """12 requests take as long as 16 but for their contexts, as on one H200; above the largest graph nothing is padded."""
    parameters = {name: start_of(name) for name in names_of((1,))} | {"token": 1e-12}
    steps, unpadded = (
        costs_of(Layout.parse("1xtp1"), parameters, engine, 5000, 250, 18).steps
        for engine in (Engine(graphs=(1, 2, 4, 8, 16)), Engine())
    )
    assert steps[8] < steps[9] == pytest.approx(steps[12]) == pytest.approx(steps[16]) and steps[3] == pytest.approx(steps[4])
    assert steps[9] > unpadded[9] and steps[8] == unpadded[8] and steps[17:] == unpadded[17:]


@pytest.mark.parametrize("graphs", [(8, 4), (4, 4), (0, 4)])
def test_graphs_ascend(graphs):
    with pytest.raises(ValueError, match="ascending|greater than 0"):
        Engine(graphs=graphs)


def engines(accelerator="H200", role="collocated", **engine):
    prefill = {"engine_kwargs": {"compilation_config": {"cudagraph_capture_sizes": [7]}}}
    return SimpleNamespace(accelerator=accelerator, llm_configs={"prefill": prefill, role: {"engine_kwargs": engine}})


OWN = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))


@pytest.mark.parametrize(
    ("of", "graphs"),
    [
        (None, OWN),
        (engines(), OWN),
        (engines(compilation_config=3), OWN),
        (engines(compilation_config={"pass_config": {}, "cudagraph_mode": "FULL"}), OWN),
        (engines(role="decode", compilation_config={"cudagraph_capture_sizes": [64, 2, 64, 600]}), (2, 64, 600)),
        (engines(compilation_config='{"cudagraph_capture_sizes": [1, 5]}'), (1, 5)),
        (engines(compilation_config={"max_cudagraph_capture_size": 20}), (1, 2, 4, 8, 16)),
        (engines(compilation_config={"max_cudagraph_capture_size": 544}), (*OWN, 528, 544)),
        (engines(performance_mode="interactivity"), (*range(1, 33), *OWN[7:])),
        (engines(compilation_config={"cudagraph_mode": "none"}), ()),
        (engines(compilation_config={"cudagraph_mode": 0}), ()),
        (engines(enforce_eager=True), ()),
        (engines("CPU"), ()),
    ],
)
def test_which_engines_pad_their_steps(of, graphs):
    assert graphs_of(of) == graphs


@pytest.mark.parametrize(
    "given", [{"cudagraph_capture_sizes": 16}, {"cudagraph_capture_sizes": [0, 4]}, "[", {"cudagraph_capture_sizes": []}]
)
def test_a_config_that_is_none_is_one_line(given):
    with pytest.raises(ValueError, match=r"^the engines' compilation_config: [^\n]+$"):
        graphs_of(engines(compilation_config=given))
