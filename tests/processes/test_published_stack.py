"""The original study's stack, Ray 2.51.0 and vLLM 0.11.0, in an environment of its own: its builder takes every layout."""

import json

import pytest

from tests.helpers.commands import ROOT, run

# Runs in that environment: builds the app of every arm, and prints what Serve would deploy.
BUILD = """
import contextlib, io, json, sys
from pathlib import Path

import launch_gptoss
from pdbench.nodes import cluster, stack
from pdbench.measure.experiment import load_experiment
from pdbench.measure.experiment_plan import rounds
from pdbench.serve import options, serve_app

found = {"ray": str(stack.Stack.installed().ray), "vllm": str(stack.Stack.installed().vllm), "arms": {}, "refused": {}}
for path in sys.argv[1:]:
    name = Path(path).stem
    for one in rounds(name, load_experiment(path), Path("bm_results")):
        label = f"{name} {one.arm.label}"
        args = launch_gptoss.parse_args(one.steps[0].command[2:])
        try:
            resolved, _ = options.resolve(args, cluster.planned_nodes)
        except ValueError as error:
            found["refused"][label] = str(error)
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            app = serve_app.build_app(resolved)
        graph, waiting = {}, [app]
        while waiting:
            one_app = waiting.pop()
            deployment = one_app._bound_deployment
            graph[deployment.name] = {
                "replicas": deployment.num_replicas,
                "bundles": deployment._replica_config.placement_group_bundles,
            }
            args = [*deployment.init_args, *deployment.init_kwargs.values()]
            flat = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
            waiting += [x for x in flat if type(x) is type(app)]
        found["arms"][label] = graph
print("FOUND " + json.dumps(found))
"""
STUDY = ("tp_baselines", "pd_ratio_dtp4", "pd_ratio_dtp2", "network")


@pytest.fixture(scope="module")
def built():
    run("make", "setup-published", timeout=1200)
    files = [f"configs/experiments/{name}.yaml" for name in STUDY]
    done = run(str(ROOT / ".venv-published/bin/python"), "-c", BUILD, *files, timeout=600)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return json.loads(line.removeprefix("FOUND "))


def test_it_is_the_original_stack(built):
    assert (built["ray"], built["vllm"]) == ("2.51.0", "0.11.0")


def test_every_layout_of_the_study_builds_an_app(built):
    assert len(built["arms"]) == 28
    engines = [{name.split(":")[0] for name in graph} - {"OpenAiIngress"} for graph in built["arms"].values()]
    assert all(names in ({"LLMServer"}, {"PDProxyServer", "Prefill", "Decode"}) for names in engines)


def test_prefill_and_decode_stand_behind_a_proxy_of_their_own(built):
    graph = built["arms"]["pd_ratio_dtp2 pack_p2xtp1-d3xtp2"]
    roles = {name.split(":")[0]: deployment for name, deployment in graph.items()}
    assert set(roles) == {"OpenAiIngress", "PDProxyServer", "Prefill", "Decode"}
    assert (roles["Prefill"]["replicas"], roles["Decode"]["replicas"]) == (2, 3)
    assert roles["PDProxyServer"]["replicas"] == roles["OpenAiIngress"]["replicas"] == 8
    assert [bundle["GPU"] for bundle in roles["Decode"]["bundles"]] == [1, 1]


def test_what_vllm_0_11_cannot_move_is_refused(built):
    (refused,) = built["refused"].items()
    assert refused[0] == "pd_ratio_dtp2 pack_p1xtp4-d1xtp2"
    assert "needs vLLM >= 0.14 (vllm PR #27274), this is 0.11.0" in refused[1]
