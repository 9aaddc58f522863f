"""Examine a cluster, or this machine alone: collect facts, judge them."""

from collections.abc import Collection
from pathlib import Path

from pdbench.configs import ROOT, HardwareConfig
from pdbench.doctor import collect, environment, host, network, versions
from pdbench.doctor.accelerators import check_accelerators
from pdbench.doctor.facts import Facts
from pdbench.doctor.findings import Finding, merge, worst
from pdbench.manifest import Strict
from pdbench.nodes import cluster
from pdbench.nodes.stack import telling_environment

LIMIT_S = 120.0  # for a node to answer: importing NIXL alone takes seconds where cores are busy


class Examination(Strict):
    """What was found, worst first within each name, and the facts it was judged by."""

    status: str
    nodes: dict[str, Facts]
    findings: list[Finding]

    def of(self, status: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == status]


def examine(
    ray, *, quick: bool = False, requirements: Path | None = None, ports: Collection[tuple[str, dict]] = (),
    limit_s: float = LIMIT_S, ignore: Collection[str] = (), hardware: HardwareConfig | None = None,
    engines_on: Collection[str] = (), candidates: Collection[str] | None = None,
) -> Examination:  # fmt: skip
    """Look at every node of the connected cluster at once; at this machine alone where `ray` is None.

    Args:
        quick: what takes a second or two: NIXL's backends, and pins unless `requirements` is given, are left out.
        requirements: file that pins versions; by default that of the stack for the nodes' hardware.
        ports: of `serving_path.ports`, that the deployment will need.
        limit_s: for a node to answer; each NIXL backend there gets a third of it.
        ignore: names of findings that the caller knows and wants.
        hardware: what the nodes of `engines_on` (IPs) are to have.
        candidates: nodes on which engines may be placed at all, all of one kind; by default every node.

    Raises:
        RequirementsError: `requirements` is missing or wrong.
    """
    # Which stack is right follows from the hardware, so the pins of either are asked for.
    usual = [] if quick else [ROOT / "requirements.txt", ROOT / "requirements-cpu.txt"]
    given = [requirements] if requirements else usual
    pins = {file: versions.read_stack(file) for file in given}
    asked = sorted({name for of_file in pins.values() for name in of_file})
    arguments = (quick, asked, list(ports), limit_s / 3)
    silent: dict[str, str] = {}
    if ray is None:
        found = {"this machine": collect.collect(*arguments)}
    else:
        found, silent = cluster.ask_every_node(ray, limit_s, collect.collect, *arguments)
    nodes = {node: Facts.model_validate(facts) for node, facts in sorted(found.items())}
    file = requirements or (None if quick else versions.default_requirements(ROOT, nodes.values()))
    findings = judge(nodes, pins.get(file), file.name if file else "", telling_environment() if ray else None, candidates)
    if hardware:
        findings += [f for node in nodes if node in engines_on for f in check_accelerators(node, nodes[node], hardware)]
    findings += [_silence(node, why) for node, why in silent.items()]
    findings = merge(finding for finding in findings if finding.name not in ignore)
    return Examination(status=worst(findings), nodes=nodes, findings=findings)


def judge(
    nodes: dict[str, Facts], pins: dict | None, file: str, driver: dict[str, str] | None,
    candidates: Collection[str] | None = None,
) -> list[Finding]:  # fmt: skip
    """Return all findings about `nodes`: a pure function of its arguments.

    Args:
        pins: of the requirements `file`; None leaves them out.
        driver: telling environment of the shell that connected; None without a cluster.
        candidates: as of `examine`.
    """
    compared = {node: facts for node, facts in nodes.items() if candidates is None or node in candidates}
    found = [*versions.agreement(nodes), *network.alike(compared)] if nodes else []
    for node, facts in nodes.items():
        if pins is not None:
            found += versions.check_requirements(node, facts, pins, file)
        found += network.check_hardware(node, facts)
        found += network.check_transports(node, facts)
        found += environment.check_environment(node, facts)
        found += host.check_host(node, facts)
    if driver is not None and nodes:
        found += [environment.check_authentication(nodes, driver), *environment.check_driver(driver)]
    return found


def _silence(node: str, why: str) -> Finding:
    return Finding(name="answer", nodes=[node], status="fail", seen=why, reason="Ray reports the node as alive",
                   fix="see the raylet's log in /tmp/ray/session_latest/logs there, and restart Ray")  # fmt: skip
