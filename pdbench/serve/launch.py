"""Prepare a launch on a cluster: connect as what starts the plan, and make the plan of the nodes that are there."""

import argparse
import os
import resource
from types import ModuleType

from pdbench.configs import ModelConfig
from pdbench.nodes import cluster
from pdbench.nodes.limits import soft_and_hard
from pdbench.serve import serving_path
from pdbench.serve.deployment import refuse_a_second, say
from pdbench.serve.options import resolve
from pdbench.serve.plan import Plan


def prepare(args: argparse.Namespace) -> tuple[ModuleType, Plan, ModelConfig]:
    """Return `ray`, connected to the cluster that the options name, the plan on its nodes, and the model.

    Raises:
        ValueError: a mistake in the options, or what they ask for does not fit the nodes.
        ConnectionError: there is no cluster.
        LaunchError: a deployment runs there already.
    """
    plan, _ = resolve(args, cluster.planned_nodes)  # mistakes that need no cluster to be seen
    ray = connect(args.address, plan)
    refuse_a_second()  # before its GPUs and ports are found busy
    if fewer := fewer_connections(ray, plan.serving_path, dict(args.serve_env)):
        args.serve_env.append(fewer)
        ray.shutdown()  # the environment of what a driver starts is settled when it connects
        ray = connect(args.address, resolve(args, cluster.planned_nodes)[0])
    plan, model = resolve(args, lambda hardware, *_: cluster.read_nodes(ray, hardware.accelerator))
    return ray, plan, model


def connect(address: str | None, plan: Plan) -> ModuleType:
    """Connect Ray as what starts `plan`, and return it.

    Raises:
        ConnectionError: there is no cluster; the message says how to start one on this machine.
    """
    env = plan.serving_path.env
    # This process builds the app: how its replicas speak to each other is decided here. Its own requests come from several
    # event loops, one after the other, and a router of Serve's would end with the first.
    os.environ |= env | {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}
    try:
        return cluster.connect(address, env)
    except ConnectionError as error:
        gpus = f" --workers 0 --gpus {plan.gpus_per_node}" if plan.accelerator != "CPU" else ""
        raise ConnectionError(f"{error}; to start one on this machine: python -m pdbench.local_cluster start{gpus}") from None


def fewer_connections(ray: ModuleType, path: serving_path.ServingPath, given: dict[str, str]) -> tuple[str, str] | None:
    """Return the setting of Ray Serve with which HAProxy starts on the head, where it would not with the default one.

    Args:
        given: settings that the user named.

    Raises:
        ValueError: the user's own number does not fit there.
    """
    if not path.has_haproxy:
        return None
    limit = cluster.on_head(ray, soft_and_hard, resource.RLIMIT_NOFILE)[1]
    name = serving_path.CONNECTIONS
    fitted = serving_path.fit_connections(path, name in given, limit)
    if fitted == path:
        return None
    say(f"HAProxy takes {fitted.connections} connections at once instead of {path.connections}: the head's hard limit of open "
        f"files is {limit}")  # fmt: skip
    return name, str(fitted.connections)
