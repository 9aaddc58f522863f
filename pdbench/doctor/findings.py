"""Define what the doctor reports of a node, and merge equal findings of several nodes into one row."""

from collections.abc import Iterable
from typing import Literal

from pdbench.manifest import Strict

Status = Literal["ok", "n/a", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "n/a", "warn", "fail")  # by how bad they are


class Finding(Strict):
    """One thing that was looked at: what was seen, why that is good or bad, and its fix."""

    name: str
    nodes: list[str]
    status: Status
    seen: str
    reason: str = ""
    fix: str = ""

    @property
    def line(self) -> str:
        """All of it in one line, as launch_gptoss.py prints it."""
        words = f"{self.name} on {', '.join(self.nodes)}: {self.seen}"
        return words + (f": {self.reason}" if self.reason else "") + (f"; fix: {self.fix}" if self.fix else "")


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Merge findings that differ in nothing but their nodes: names as each node reports them, the worst first.

    In which order the nodes answered changes nothing.
    """
    nodes: dict[tuple, set[str]] = {}
    order: dict[str, int] = {}
    for finding in sorted(findings, key=lambda finding: min(finding.nodes)):
        order.setdefault(finding.name, len(order))
        key = (finding.name, finding.status, finding.seen, finding.reason, finding.fix)
        nodes.setdefault(key, set()).update(finding.nodes)
    rows = [Finding(name=key[0], nodes=sorted(found_on), status=key[1], seen=key[2], reason=key[3], fix=key[4])
            for key, found_on in nodes.items()]  # fmt: skip
    return sorted(rows, key=lambda row: (order[row.name], -STATUSES.index(row.status), row.nodes, row.seen))


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status; `ok` where nothing was looked at, and `n/a` is as good as `ok`."""
    status = max((STATUSES.index(finding.status) for finding in findings), default=0)
    return STATUSES[status] if status > STATUSES.index("n/a") else "ok"
