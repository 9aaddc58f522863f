"""Audit result folders: report, as data, what a reader has to know before believing them.

A finding is no error: the folder was read, and every number in it is what its file says. It names where to look,
what was seen there, why that matters and what to do. All that is compared is in the folders given.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pdbench.analysis.audit_checks import checked
from pdbench.analysis.audit_levels import MIN_SAMPLES
from pdbench.analysis.audit_source import Source, sources_of
from pdbench.read.results import Study

# Of every kind of finding: why it matters, and what to do.
KINDS = {
    "two layouts": (
        "throughput per node divides by the GPUs of the layout: under one of the names it is wrong",
        "find out what was deployed; until then leave it out, and take another run of the layout where there is one",
    ),
    "name and manifest": (
        "the manifest says what ran, and the tables follow it; the folder's name is misleading",
        "rename the folder, or measure the layout that its name says",
    ),
    "odd decode": (
        "TPOT at a concurrency is the decode pool's: more of the same prefill replicas cannot both raise and lower it",
        "check what was deployed; measure it again",
    ),
    "same results": (
        "it is one measurement: that these arms agree shows nothing, and where their names differ one of them may be wrong",
        "keep one of them, under the right name",
    ),
    "another folder's level": (
        "it was measured on something else than the folder's other levels",
        "move the file to the folder that it is of, and measure the level here with run_bm.sh",
    ),
    "changed file": (
        "its numbers are not those that the manifest's gates have passed",
        "restore the file, or measure the level again",
    ),
    "not in the manifest": (
        "nothing says what it was measured on, nor that it passed the gates",
        "move the file out of the folder, or measure the level with run_bm.sh",
    ),
    "failed gate": (
        "the level was taken although a gate did not pass",
        "measure it again; run_bm.sh lets none of them count",
    ),
    "mixed prompts": (
        "prompts found in the prefix cache are compared with prompts that were computed",
        "measure these, too, with prompts not seen before, as run_bm.sh does",
    ),
    "no manifest": (
        "other folders say what ran and on which nodes; of these only the name says something, which somebody typed",
        "measure them with run_bm.sh, or compare folders without manifests with each other",
    ),
    "prompts not computed": (
        "the deployment filled prompts' KV caches: no prefill is in these numbers, TTFT and input throughput mean nothing",
        "measure with a deployment launched without --decode-bench",
    ),
    "mixed contexts": (
        "decode steps at a context of one token are compared with such that have a whole prompt behind them, which cost more",
        "measure these, too, on a deployment launched with --decode-bench",
    ),
    "short context": (
        "what a long context costs each decode step is not in these numbers: they are those of a prompt of one token",
        "launch with --decode-bench and measure again, or say that it is an upper bound",
    ),
    "replayed prompts": (
        "a server that stays up finds them in its prefix cache, on by default: TTFT is too low and input throughput too high",
        "measure with a seed for each level, as run_bm.sh does, or with the prefix cache off",
    ),
    "above prefill": (
        "prompts cannot be prefilled faster than by replicas that do nothing else: some were not computed, but cached",
        "check whether prompts were replayed; measure both again with unseen prompts",
    ),
    "cold start": (
        "the level's duration includes the server's start-up, so its throughput is too low and its mean latencies are too high",
        "warm the server up with prompts of its own, then measure the level again",
    ),
    "other prompts": (
        "what prompts cost to prefill is not what arms of this ISL are compared by",
        "measure with prompts of one length, as run_bm.sh does, or correct the folder's name",
    ),
    "another tokenizer": (
        "prompts have as many tokens of the client's tokenizer as the folder's name says; of the model's they may have others",
        "measure with the model's own (run_bm.sh --tokenizer, by default the deployment's model)",
    ),
    "concurrency not kept": (
        "start and drain, or a slow client, are a large part of the level: its throughput is that of a lower load",
        "send more requests (run_bm.sh -n), see that the client keeps up, and measure the level again",
    ),
    "overloaded": (
        "requests came faster than they were served: TTFT is that of a queue, and grows with the number of requests",
        "compare at rates that are served; a bound on TTFT leaves this level out",
    ),
    "capped": (
        "the client held requests back at its cap of requests in flight: the queue is in the client and not in TTFT",
        "measure without --max-concurrency, or with one that is never reached; a bound on TTFT leaves this level out",
    ),
    "mixed versions": (
        "a difference between these arms may be one between their versions",
        "measure them again on one stack; until then compare within one version only",
    ),
    "mixed engines": (
        "a difference between these arms may be one between their engines' settings",
        "measure them again with the same settings, unless the setting is what is compared",
    ),
    "mixed clients": (
        "another backend of the client counts pieces, TTFT and inter-token latency in another way",
        "measure them again with one backend, as run_bm.sh does",
    ),
    "mixed pieces": (
        "inter-token latency is between pieces: of more tokens it is longer, although none of them is later",
        "measure them again with one stream interval, without speculative decoding; a bound on ITL leaves the coarser ones out",
    ),
    "mixed models": (
        "requests went to models of different names, whatever the folders are called",
        "compare arms of one model only",
    ),
    "mixed loads": (
        "bursts, and at a rate that is not served the number of requests, decide TTFT and its tail",
        "measure them again with the same burstiness and number of requests",
    ),
    "missing levels": (
        "where a curve ends early its arm cannot win or lose: its maximum is that of the levels measured",
        "measure them, or compare at common levels only",
    ),
    "in one go": (
        "answers may have come at their end, through something that buffers: TTFT is then that of the whole",
        "look at a stream as it comes (run_bm.sh --smoke prints its times), and turn buffering off on the way",
    ),
    "shared unevenly": (
        "a replica with more requests than others is slower while these have little to do: that is the router, not the layout",
        "compare with a control (--mode bare) or with another setting of the router; viz.py --show-sharing has all levels",
    ),
    "few requests": (
        f"p99 of fewer than {MIN_SAMPLES} requests lies between the two slowest: one request decides it",
        "send more requests, or repeat the level; until then read the median",
    ),
    "transport not proved": (
        "nothing records which transport moved the KV cache, and over TCP the same layout is many times slower",
        "measure with run_experiment.py, or run python -m pdbench.gates before the sweep: it stores what UCX reports",
    ),
}  # fmt: skip
# A folder with one of these is not what it is called, or is compared with what cannot be compared: decisions leave it out.
REFUTED = ("two layouts", "odd decode", "another folder's level", "changed file", "not in the manifest", "failed gate",
           "prompts not computed", "in one go", "mixed contexts", "mixed prompts", "no manifest", "same results")  # fmt: skip
# What differs between arms beside what is compared: an answer names it. Models are not compared with each other at all.
MIXED = ("mixed loads", "mixed clients", "mixed engines", "mixed versions")
UNEVEN = "shared unevenly"  # an answer says so, too


@dataclass(frozen=True)
class Finding:
    """One thing to know of one or several result folders.

    Attributes:
        kind: one of `KINDS`.
        folders: the result folders that it is about, as they were given.
        seen: what was found there, in numbers.
        why: why it matters.
        fix: what to do.
    """

    kind: str
    folders: tuple[str, ...]
    seen: str
    why: str
    fix: str

    @property
    def where(self) -> str:
        """The folders in words."""
        return ", ".join(map(short, self.folders))


def short(folder: str | os.PathLike[str]) -> str:
    """Return a result folder's name, with that of the folder that it lies in."""
    path = Path(os.path.abspath(folder))
    return f"{path.parent.name}/{path.name}"


def audit(study: Study, sharing: bool = True) -> list[Finding]:
    """Return all findings on these result folders, those that put a layout in doubt first; equal ones are merged.

    Args:
        sharing: look at how evenly replicas shared requests, too; refutes nothing, and takes as long as reading details.

    Raises:
        ResultError: a folder cannot be read.
    """
    return findings(sources_of(study, sharing))


def findings(sources: list[Source]) -> list[Finding]:
    """Return the findings as `audit` does, on folders that were read."""
    alike: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for kind, concerned, seen in checked(sources):
        names = [source.name for source in concerned]
        alike[kind, seen, tuple(names[1:])] += names  # a group of folders is a finding of its own
    ordered = sorted(alike.items(), key=lambda item: list(KINDS).index(item[0][0]))
    return [Finding(kind, tuple(names), seen, *KINDS[kind]) for (kind, seen, _), names in ordered]


def refuted(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Return the folders that a comparison must leave out, with the kinds of findings.

    Of folders that are copies of each other the first stays; one whose own levels are copies does not.
    """
    found: dict[str, list[str]] = {}
    for finding in findings:
        if finding.kind in REFUTED:
            stays = finding.kind == "same results" and len(finding.folders) > 1
            for folder in finding.folders[stays:]:
                found.setdefault(folder, []).append(finding.kind)
    return found
