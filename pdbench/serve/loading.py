"""Show where a launch's time goes, by the engines' own log lines."""

import re
from collections.abc import Iterable

# vLLM's lines, 0.11 to 0.29; seconds in the group.
STAGES = {
    "loading weights": r"Model loading took .* ([\d.]+) seconds",
    "initializing": r"init engine \(.*?\) took ([\d.]+) s",
    "of it compiling": r"torch\.compile took ([\d.]+) s",
    "capturing CUDA graphs": r"Graph capturing finished in ([\d.]+) secs",
}
LINES = "|".join(f"(?:{pattern})" for pattern in STAGES.values())


def stage_seconds(lines: Iterable[str]) -> dict[str, float]:
    """Return seconds of each stage that the lines name: those of the slowest rank."""
    found: dict[str, float] = {}
    for line in lines:
        for stage, pattern in STAGES.items():
            if match := re.search(pattern, line):
                found[stage] = max(found.get(stage, 0.0), float(match[1]))
    return {stage: found[stage] for stage in STAGES if stage in found}


def summary(stages: dict[str, float], total: float) -> str:
    """Return one line: each stage, and what imports and process starts took beside them."""
    rest = total - stages.get("loading weights", 0.0) - stages.get("initializing", 0.0)
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages.items())
    return f"the slowest engine: {spent}; imports and process starts {rest:.0f} s"
