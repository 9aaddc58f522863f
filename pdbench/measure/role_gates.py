"""Check that the engines of a pool did what the table of roles said, by their own counts of requests."""

from collections.abc import Iterator

from pdbench.manifest import Gate, now
from pdbench.serve.controller import Tick
from pdbench.serve.pool import DECODE, PREFILL, Report

OTHER = {PREFILL: DECODE, DECODE: PREFILL}
# After a change: routers have read the new table; by then an engine should have work in its new role, if there is any.
SETTLED_S, FOLLOWED_S = 3.0, 10.0


def fixed(before: list[Report], after: list[Report]) -> Gate:
    """Check that every engine did what the table says, and nothing else, while nobody changed it."""
    was = {one.replica_id: one for one in before}
    did: dict[str, int] = {PREFILL: 0, DECODE: 0}
    wrong = []
    for one in after:
        begun = was.get(one.replica_id, one)
        did[one.role] += one.ended[one.role] - begun.ended[one.role]
        if strange := one.ended[OTHER[one.role]] - begun.ended[OTHER[one.role]]:
            wrong.append(f"{one.replica_id}, which is to {one.role}, took {strange} requests to {OTHER[one.role]}")
    wrong += [f"no engine took a request to {role}" for role, requests in did.items() if not requests]
    return Gate(
        name="roles", passed=not wrong, time=now(), expected="every engine does what its role is, and nothing else",
        seen="; ".join(wrong) or f"{did[PREFILL]} requests were prefilled and {did[DECODE]} decoded, each by its role",
        advice="the roles were changed while the level ran: measure it again",
    )  # fmt: skip


def moved(ticks: list[Tick]) -> Gate:
    """Check a controller's changes: each engine that changed took work in its new role, and none in the old one.

    Args:
        ticks: of the level, in order.
    """
    wrong, changes = [], sum(len(tick.changed) for tick in ticks)
    for engine in sorted({one.replica_id for tick in ticks for one in tick.reports}):
        wrong += list(_of_engine(engine, ticks))
    return Gate(
        name="roles", passed=bool(ticks) and not wrong, time=now(), value=float(changes),
        seen="; ".join(wrong) or f"{len(ticks)} ticks, {changes} changes of an engine's role, each followed by work in it",
        expected="each change is followed by work in the new role, and by none in the old one",
        advice="see the level's .ticks.jsonl, and whether something else changes the roles",
    )  # fmt: skip


def _of_engine(engine: str, ticks: list[Tick]) -> Iterator[str]:
    """What an engine did against the table, in each stretch of ticks between its changes."""
    for role, stretch in _stretches(engine, ticks):
        seen = [(tick.unix, one) for tick in stretch for one in tick.reports if one.replica_id == engine]
        later = [one for at, one in seen if role is None or at >= stretch[0].unix + SETTLED_S]
        if not later:
            continue
        first, last = later[0], later[-1]
        given = role or first.role
        if last.role != given:
            yield f"{engine} was to {given} and still says {last.role}"
        if strange := _begun(last, OTHER[given]) - _begun(first, OTHER[given]):
            yield f"{engine}, which is to {given}, took {strange} requests to {OTHER[given]}"
        if role and _is_idle(engine, role, stretch):
            yield f"{engine} took no request to {role} in {stretch[-1].unix - stretch[0].unix:.0f} s"


def _stretches(engine: str, ticks: list[Tick]) -> list[tuple[str | None, list[Tick]]]:
    """Ticks from each change of an engine's role to the next, with that role; None for those before the first.

    What is handed out again, since the engine did not take it, is no further change.
    """
    found: list[tuple[str | None, list[Tick]]] = [(None, [])]
    for tick in ticks:
        if (role := tick.changed.get(engine)) and role != found[-1][0]:
            found.append((role, []))
        found[-1][1].append(tick)
    return [(role, stretch) for role, stretch in found if stretch]


def _is_idle(engine: str, role: str, stretch: list[Tick]) -> bool:
    """Whether an engine got no work of its role for long, although others of that role did."""
    if stretch[-1].unix - stretch[0].unix < FOLLOWED_S:
        return False
    grown = {
        one.replica_id: _begun(one, role) - _begun(begun, role)
        for one in stretch[-1].reports for begun in stretch[0].reports if begun.replica_id == one.replica_id
    }  # fmt: skip
    return not grown.get(engine, 1) and any(number > 1 for number in grown.values())


def _begun(one: Report, work: str) -> int:
    return one.ended[work] + one.running[work]
