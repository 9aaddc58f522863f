"""Print verdicts on claims in a terminal."""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from pdbench.analysis.audit import Finding
from pdbench.analysis.claim_evidence import DOUBTFUL, REFUTED, Evidence
from pdbench.analysis.claim_rules import RULES
from pdbench.analysis.claims import VERDICTS, Verdict
from pdbench.output.number_text import number
from pdbench.output.tables import wrapped
from pdbench.workload import RunName

# Findings that decide which run is taken are printed in full, others by name; more runs than this by their number.
IN_FULL = (DOUBTFUL, *REFUTED)
FEW = 2


def print_verdicts(verdicts: Sequence[Verdict], evidence: Evidence) -> None:
    """Print every claim with its verdict, the comparisons behind it and the runs that were compared."""
    model, isl, osl, phase, kind = evidence.workload
    print(f"{len(evidence.sources)} result folders of {model}, {isl}:{osl} tokens, {phase}, by {kind}", end="")
    print(f"; {len(evidence.others)} of other workloads left out" if evidence.others else "")
    print(
        "of several runs of an arm the latest is taken that the audit does not put in doubt; last those with replayed prompts,"
    )
    print("and archived ones")
    for reason in evidence.unread:
        print(wrapped("  not read: ", reason))
    for verdict in verdicts:
        print()
        _print_verdict(verdict)
    print("\n" + ", ".join(f"{name}: {sum(v.verdict == name for v in verdicts)}" for name in VERDICTS))


def _print_verdict(of: Verdict) -> None:
    claim = of.claim
    print(wrapped("", f"{of.verdict.upper()} {claim.id}: {claim.says}"))
    print(wrapped("    ", f"{claim.rule}: {RULES[claim.rule]} ({claim.metric}, tolerance {100 * claim.tolerance:g}%)"))
    for point in of.points:
        values = ", ".join(f"{arm} {f'{value:.0%}' if point.shares else number(value)}" for arm, value in point.values.items())
        print(wrapped(f"    {'yes' if point.true else 'NO':3}  ", f"{point.at}: {values}"))
    true = sum(point.true for point in of.points)
    only = f", {of.within} of them only within the tolerance" if of.within else ""
    print(f"    {true} of {len(of.points)} as claimed{only}" if of.points else "    nothing to compare")
    if of.points and of.repeats[0] == 1:
        often = "once" if of.repeats[1] == 1 else f"1 to {of.repeats[1]} times"
        print(f"    levels were measured {often}: what another launch would change is not in this")
    if of.missing:
        print(wrapped("    ", f"no run that could be taken: {', '.join(of.missing)}"))
    shown = {arm for point in of.points for arm in point.values}
    if shown:
        print(wrapped("    ", f"runs: {', '.join(f'{arm} = {_run(of.runs[arm])}' for arm in of.runs if arm in shown)}"))
    for arm, folder, verdict in of.others:
        if verdict != of.verdict:
            print(wrapped("    ", f"{verdict} with {_run(folder)} as {arm}"))
    for word, findings in (("not taken", of.refused), ("audit", of.warnings)):
        for finding in findings:
            if finding.kind in IN_FULL:
                folders = ", ".join(map(_run, finding.folders))
                print(wrapped("    ", f"{word}: {folders}: {finding.kind}: {finding.seen}"))
    others = groupby((f for f in of.warnings if f.kind not in IN_FULL), key=lambda finding: finding.kind)
    if listed := [_counted(kind, list(several), len(of.runs)) for kind, several in others]:
        print(wrapped("    ", f"audit: {', '.join(listed)}"))


def _counted(kind: str, several: list[Finding], runs: int) -> str:
    """A kind of finding with the runs that it is about: their names where they are few."""
    names = dict.fromkeys(_run(folder) for finding in several for folder in finding.folders)
    return f"{kind} ({', '.join(names) if len(names) <= FEW else f'{len(names)} of {runs} runs'})"


def _run(folder: str) -> str:
    """The name that was given to a run, after the folder in which it lies: the workload is the same for all."""
    path = Path(os.path.abspath(folder))
    return f"{path.parent.name}/{RunName.parse(path.name).name}"
