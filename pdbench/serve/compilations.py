"""Find kernels that vLLM reports as compiled or tuned after an engine's start: each stalls requests for up to a second.

vLLM's monitor (vllm/utils/jit_monitor.py) covers Triton, CuTeDSL and TileLang, on GPUs alone.
"""

import re
from typing import Any

from pdbench.manifest import Gate, Strict, now

LINES = r"Kernel JIT monitor activated|JIT compil\w+ during inference|Triton autotuning for function"
_STARTED = "monitor activated"
_KERNEL = re.compile(r"(?:during inference:|for function) (\w+)")
COLD = "measured without warm-up, as published"


# vLLM's own sizes of CUDA graphs for decode batches, up to twice the study's highest level; those that its performance mode
# "interactivity" adds (vllm/config/vllm.py, `_set_cudagraph_sizes`). "throughput" doubles the largest step.
_DECODE_SIZES = (1, 2, 4, *range(8, 129, 8))
_INTERACTIVE_SIZES = range(1, 33)
_LARGEST_STEP = 8192  # tokens: vLLM's default on GPUs of 70 GB and more


def pad_steps(engine: dict[str, Any], multiple: int) -> dict[str, Any]:
    """Return engine arguments with CUDA graphs for steps of all sizes, to which vLLM then pads each step.

    vLLM 0.29's kernels for MXFP4 experts on Hopper (OpenAI's triton_kernels) take the number of a step's tokens, rounded up to
    32, as a constant: 256 numbers up to the largest step, two kernels for each and two variants of one of these, 0.7 s a
    compilation. A running engine keeps meeting new ones. Padded, there are few, all compiled while the engine starts.

    Args:
        multiple: of tokens, to which steps of more than 128 tokens are padded.

    Raises:
        ValueError: compilation_config is not a mapping, so that no sizes can be added to it.
    """
    given = engine.get("compilation_config", {})
    if not isinstance(given, dict):
        raise ValueError(
            f"engine argument compilation_config: {given!r} is not a mapping such as {{mode: 3}}, to which pad_steps_to can "
            "add sizes of CUDA graphs"
        )
    if given.keys() & {"cudagraph_capture_sizes", "max_cudagraph_capture_size"}:
        return engine
    mode = engine.get("performance_mode")
    most = engine.get("max_num_batched_tokens") or _LARGEST_STEP * (2 if mode == "throughput" else 1)
    more = _INTERACTIVE_SIZES if mode == "interactivity" else ()
    sizes = sorted(size for size in {*_DECODE_SIZES, *more, *range(multiple, most, multiple), most} if size <= most)
    return engine | {"compilation_config": given | {"cudagraph_capture_sizes": sizes}}


class Compilations(Strict):
    """What the engines of a deployment have said since its launch.

    Attributes:
        monitored: ranks whose vLLM reports compilations.
        kernels: a name for each compilation, in any order.
    """

    monitored: int = 0
    kernels: list[str] = []


def read_compilations(lines: list[str]) -> dict:
    """Return the fields of `Compilations`, from the lines that match LINES."""
    kernels = [match[1] if (match := _KERNEL.search(line)) else "?" for line in lines if _STARTED not in line]
    return {"monitored": sum(_STARTED in line for line in lines), "kernels": kernels}


def gate(before: Compilations, after: Compilations, cold: bool, ranks: int) -> Gate:
    """Return gate `no-compilation`: every rank reports what it compiles, and none did between two readings.

    Args:
        cold: nothing was warmed up on purpose: what was compiled is noted, and the level counts.
        ranks: that were launched to report.
    """
    common = {"name": "no-compilation", "time": now(), "expected": "none while the level runs"}
    if after.monitored < ranks:
        return Gate(**common, passed=False, seen=f"{after.monitored} of {ranks} ranks report what they compile",
                    advice="leave VLLM_LOGGING_LEVEL unset: vLLM reports it in its log")  # fmt: skip
    if not after.monitored:
        return Gate(**common, passed=True, seen="not monitored: vLLM does so on GPUs, from 0.26 on")
    new = len(after.kernels) - len(before.kernels)
    # Lines of several ranks are in no order, so names are counted, not cut off.
    names = sorted({name for name in after.kernels if after.kernels.count(name) > before.kernels.count(name)})
    seen = f"{new} compilations on {after.monitored} ranks" + (f": {', '.join(names)}" if names else "")
    return Gate(**common, passed=cold or not new, seen=f"{seen}; {COLD}" if cold else seen, value=float(new),
                advice="requests waited for the compiler: measure the level again, which is warm now")  # fmt: skip
