"""Examine the nodes that a launch is about to use."""

import argparse
import sys
from types import ModuleType

from pdbench.doctor.examination import examine
from pdbench.layout import placed_as
from pdbench.network import slow_link, ucx
from pdbench.nodes import cluster
from pdbench.serve import serving_path
from pdbench.serve.options import read_configs
from pdbench.serve.plan import LaunchError, Plan


def consult(ray: ModuleType, args: argparse.Namespace, plan: Plan) -> None:
    """Print what is doubtful about the nodes.

    Raises:
        LaunchError: something there is wrong; each fault was printed in a line, with its fix.
    """
    _, hardware = read_configs(args)
    ports = serving_path.ports(plan.serving_path, args.host, args.port)
    wanted = set(hardware.env)  # what engines are given, they do not inherit from their node
    wanted |= set(ucx.LOUD_LEVELS) if args.verbose else set()
    wanted |= {"UCX_TLS"} if args.ucx_tls or args.backend == "LIBFABRIC" else set()
    wanted |= {"slow link"} if slow_link.UCX_ENV.items() <= hardware.env.items() else set()
    wanted |= {"RDMA"} if placed_as(plan.mode) != "pd-spread" else set()  # no KV cache crosses nodes
    nodes = cluster.of_kind(cluster.read_nodes(ray, hardware.accelerator), hardware.accelerator_type)
    chosen = {ip for role, ip in plan.placement.items() if role != "ingress"}
    engines_on = {node.ip for node in nodes if node.accelerators and (node.ip in chosen or "any" in chosen)}
    candidates = {node.ip for node in nodes if node.accelerators}
    found = examine(
        ray, quick=True, ports=ports, ignore=wanted, hardware=hardware, engines_on=engines_on, candidates=candidates
    )
    for finding in found.of("warn"):
        print(f"launch: warning: {finding.line}", file=sys.stderr)
    for finding in found.of("fail"):
        print(f"launch: doctor: {finding.line}", file=sys.stderr)
    if failures := len(found.of("fail")):
        raise LaunchError(f"nothing was started: {failures} of the doctor's checks failed; --no-doctor launches anyway")
