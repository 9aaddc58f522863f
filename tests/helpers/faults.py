"""Deployments that are wrong on purpose."""

import contextlib
import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import ROOT, STACK, environment, launch

# In a process of its own, as the launch script is: tests have no Ray driver in theirs.
LAUNCHER = """
import sys
import launch_gptoss
from pdbench.serve import options
from pdbench.model.model_folder import ensure_model
from pathlib import Path

weights = Path(sys.argv.pop(1))
make_plan = options.make_plan

def other_prefill_weights(model, *args):
    plan = make_plan(model, *args)
    ensure_model(weights, model.tiny.model_copy(update={"seed": 1}))
    configs = plan.llm_configs
    configs["prefill"]["model_loading_config"] = {**configs["prefill"]["model_loading_config"], "model_source": str(weights)}
    for config in configs.values():
        extra = config["engine_kwargs"]["kv_transfer_config"]["kv_connector_extra_config"]
        # vLLM compares the models' names at the handshake; the fault is past that check.
        extra["enforce_handshake_compat"] = False
    return plan

options.make_plan = other_prefill_weights
sys.exit(launch_gptoss.main())
"""


@contextlib.contextmanager
def launch_with_other_prefill_weights(weights: Path):
    command = [sys.executable, "-c", LAUNCHER, str(weights), *STACK, "--verbose", "--pd-pack", "--layout", "p1xtp1-d1xtp1"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=700)
    try:
        assert done.returncode == 0, done.stderr[-2000:]
        yield
    finally:
        launch("--stop")
