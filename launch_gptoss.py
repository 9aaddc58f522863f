#!/usr/bin/env python
"""Start, show and stop one deployment of gpt-oss on Ray Serve LLM: collocated, pd-pack or pd-spread."""

import argparse
import json
import logging
import re
import shlex
import sys
import time
from pathlib import Path

from pdbench import cluster, stack, transport
from pdbench.configs import ROOT, HardwareConfig, ModelConfig, load_hardware, load_model
from pdbench.layout import MODES, Layout, Pool
from pdbench.serving import APP, LaunchError, Plan, make_plan

DEFAULT_MODEL = ROOT / "configs/models/gpt-oss-120b.yaml"
# `RuntimeError: ...` at a line's start or after a prefix.
ENGINE_ERROR = r"(?:^|\s)((?:[\w.]+\.)?\w*(?:Error|Exception): .+)"
DEFAULT_HARDWARE = ROOT / "configs/hardware/p5.48xlarge.yaml"


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage in front."""

    def error(self, message: str):
        self.exit(2, f"launch_gptoss.py: error: {message}\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    what = parser.add_argument_group("what to deploy")
    mode = what.add_mutually_exclusive_group()
    mode.add_argument("--mode", choices=MODES, default=argparse.SUPPRESS)
    for name in MODES:
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, default=argparse.SUPPRESS)
    what.add_argument("--layout", metavar="LAYOUT", help="4xtp2, or p2xtp2-d1xtp4; instead of the six options below")
    what.add_argument("--tp", "--tensor-parallel-size", type=int, help="collocated: TP size (default 1)")
    what.add_argument("--num", type=int, help="collocated: replicas (default 1)")
    for side, word in (("p", "prefill"), ("d", "decode")):
        what.add_argument(f"--{side}-num", type=int, help=f"PD: {word} replicas (default 1)")
        what.add_argument(f"--{side}-tp", type=int, help=f"PD: TP size of {word} (default 1)")
    what.add_argument("--model", default=DEFAULT_MODEL, metavar="FILE", help="configs/models/*.yaml")
    what.add_argument("--hardware", default=DEFAULT_HARDWARE, metavar="FILE", help="configs/hardware/*.yaml")
    what.add_argument("--model-id", help="name that clients send, instead of the model file's")
    what.add_argument("--model-source", help="hub id or folder of the weights, instead of the model file's")
    what.add_argument("--ingress-replicas", type=int, help="HTTP ingress replicas, instead of the hardware file's")
    network = parser.add_argument_group("KV transfer (PD)")
    backend = network.add_mutually_exclusive_group()
    backend.add_argument("--use-ucx", dest="backend", action="store_const", const="UCX", default="UCX")
    backend.add_argument("--use-libfabric", dest="backend", action="store_const", const="LIBFABRIC", default=argparse.SUPPRESS)
    network.add_argument("--ucx-tls", metavar="LIST", help="UCX_TLS of the engines, for example tcp or cuda_ipc,cuda_copy,tcp")
    network.add_argument("--verbose", action="store_true", help="NIXL, UCX and vLLM debug logs; distorts results")
    action = parser.add_argument_group("what to do (default: launch and leave it running)")
    action = action.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="print the plan as YAML, start nothing")
    action.add_argument("--status", action="store_true", help="print what is running, as JSON")
    action.add_argument("--stop", action="store_true", help="stop the deployment; returns when all is gone")
    where = parser.add_argument_group("where")
    where.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or the one that runs here")
    where.add_argument("--host", default="127.0.0.1", help="address that the HTTP server binds")
    where.add_argument("--port", type=int, default=8000)
    where.add_argument("--timeout", type=float, default=1800, metavar="S", help="seconds to be up, or gone")
    return parser.parse_args(argv)


def read_layout(args: argparse.Namespace) -> tuple[Layout, str]:
    """The layout and mode that the options spell.

    Raises:
        ValueError: none is named, or two contradict each other.
    """
    given = {n: getattr(args, n) for n in ("tp", "num", "p_num", "p_tp", "d_num", "d_tp") if getattr(args, n) is not None}
    mode = getattr(args, "mode", None)
    flags = ", ".join("--" + n.replace("_", "-") for n in given)
    if args.layout is not None:
        if given:
            raise ValueError(f"give either --layout or {flags}, not both")
        layout = Layout.parse(args.layout)
    else:
        pd = [n for n in given if n.startswith(("p_", "d_"))]
        if mode is None:
            raise ValueError(f"name a --mode ({', '.join(MODES)}) and a --layout such as 4xtp2 or p2xtp2-d1xtp4")
        if (mode == "collocated" and pd) or (mode != "collocated" and len(pd) != len(given)):
            fitting = "--tp and --num" if mode == "collocated" else "--p-num, --p-tp, --d-num and --d-tp"
            raise ValueError(f"mode {mode} takes {fitting}, not {flags}")
        size = {"num": 1, "tp": 1, "p_num": 1, "p_tp": 1, "d_num": 1, "d_tp": 1} | given
        if mode == "collocated":
            layout = Layout(Pool(size["num"], size["tp"]))
        else:
            layout = Layout(prefill=Pool(size["p_num"], size["p_tp"]), decode=Pool(size["d_num"], size["d_tp"]))
    if mode is None and layout.is_pd:
        raise ValueError(f"layout {layout} needs --pd-pack or --pd-spread")
    return layout, mode or "collocated"


def read_configs(args: argparse.Namespace) -> tuple[ModelConfig, HardwareConfig]:
    model, hardware = load_model(args.model), load_hardware(args.hardware)
    if args.model_id:
        model = model.model_copy(update={"model_id": args.model_id})
    if args.model_source:
        model = model.model_copy(update={"model_source": args.model_source, "tiny": None})
    return model, hardware


def resolve(args: argparse.Namespace, nodes_of) -> tuple[Plan, ModelConfig]:
    """The plan that the options ask for; `nodes_of(hardware, layout, mode)` says what nodes there are.

    Raises:
        ValueError: any mistake that can be seen before something starts.
    """
    model, hardware = read_configs(args)
    layout, mode = read_layout(args)
    if args.backend == "LIBFABRIC" and args.ucx_tls:
        raise ValueError("--ucx-tls goes with --use-ucx, not with --use-libfabric")
    if args.ingress_replicas is not None and args.ingress_replicas < 1:
        raise ValueError(f"--ingress-replicas must be at least 1, not {args.ingress_replicas}")
    stack.check_tensor_parallel(layout, model.kv_heads, stack.vllm_version())
    placement = cluster.place(layout, mode, nodes_of(hardware, layout, mode), hardware.accelerator)
    how = transport.Transport(backend=args.backend, ucx_tls=args.ucx_tls, verbose=args.verbose)
    ingress = args.ingress_replicas or hardware.ingress_replicas
    return make_plan(model, hardware, layout, mode, placement, how, ingress, args.host, args.port), model


def connect(args: argparse.Namespace):
    """Ray, connected.

    Raises:
        ConnectionError: there is no cluster; the message says how to start one on this machine.
    """
    try:
        return cluster.connect(args.address)
    except ConnectionError as error:
        raise ConnectionError(f"{error}; to start one on this machine: python -m pdbench.local_cluster start") from None


def launch(args: argparse.Namespace) -> None:
    """Start the deployment and return when every replica has answered a real request."""
    from pdbench import describe, gates, serving, tiny

    started, deadline = time.time(), time.monotonic() + args.timeout
    resolve(args, cluster.planned_nodes)  # mistakes that need no cluster to be seen
    ray = connect(args)
    plan, model = resolve(args, lambda hardware, *_: cluster.read_nodes(ray, hardware.accelerator))
    if (details := serving.serve_details()) and serving.APP in details["applications"]:
        raise LaunchError("a deployment is running already: see it with --status, end it with --stop")
    if args.verbose:
        say(f"warning: {transport.VERBOSE_WARNING}")
    if model.tiny:
        say(f"model {model.model_id}: making it in {model.source}, or checking what is there")
        tiny.ensure_tiny_model(Path(model.source), model.tiny)
    say(f"layout {plan.layout}, {plan.mode}, on {plan.placement}")
    record = describe_launch(ray, plan)
    extra = [(describe.NAME, describe.ROUTE, describe.application(record, started))]
    quiet_loggers()
    try:
        serving.deploy(plan, extra, deadline, say)
        counts = {}
        for replica in serving.replicas(serving.serve_details()):
            if replica["role"] != "ingress":
                counts[replica["deployment"]] = counts.get(replica["deployment"], 0) + 1
        checks = [gates.answer_on_every_replica(counts, APP, plan.model_id, deadline)]
        if plan.core_per_rank:
            checks.append(pin_ranks(ray, plan))
    except BaseException as error:
        fail(ray, error, started)
        if isinstance(error, ray.exceptions.RayError):
            raise LaunchError(str(error).strip().splitlines()[-1]) from None
        raise
    base_url = f"http://{args.host}:{args.port}"
    for gate in checks:
        record_gate(base_url, gate)
    say(f"ready after {time.time() - started:.0f} s at {base_url}: every replica has answered a request")


def describe_launch(ray, plan: Plan) -> dict:
    """What `GET /pdbench/deployment` answers: the fields of `manifest.Deployment`.

    Paths inside this repository are told relative to it, so that a manifest says the same on every machine.
    """
    from pdbench import gates, tiny

    machines = cluster.on_every_node(ray, stack.machine)
    source = Path(plan.model_source)
    told = json.loads(json.dumps(plan.model_dump()).replace(f"{ROOT}/", ""))
    return {
        "layout": plan.layout, "mode": plan.mode, "gpus": plan.gpus, "gpus_per_node": plan.gpus_per_node,
        "accelerator": plan.accelerator, "model_id": plan.model_id, "model_source": told["model_source"],
        "model_checksum": tiny.verified_checksum(source) if source.is_dir() else None,
        "transport": plan.transport.model_dump() if plan.transport else None,
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "launched": gates.now(),
        "machines": [{**machine, "node_ip": ip} for ip, machine in machines.items()],
        "repository": stack.repository(ROOT).model_dump(),
        "llm_configs": told["llm_configs"],
        "gates": [],
    }  # fmt: skip


def pin_ranks(ray, plan: Plan):
    """Give each engine rank a core of its own; the gate says how many were found."""
    from pdbench import gates, serving
    from pdbench.manifest import Gate

    replicas, first = [], 0
    for replica in serving.replicas(serving.serve_details()):
        if replica["role"] != "ingress":
            replicas.append({"node_id": replica["node_id"], "pid": replica["pid"], "first": first})
            first += plan.llm_configs[replica["role"]]["engine_kwargs"]["tensor_parallel_size"]
    pinned = sum(cluster.on_every_node(ray, cluster.pin_ranks, replicas).values())
    return Gate(name="core-per-rank", passed=pinned == first, seen=f"{pinned} ranks pinned to a core",
                expected=f"{first} ranks", time=gates.now())  # fmt: skip


def record_gate(base_url: str, gate) -> None:
    import asyncio

    from pdbench import gates

    asyncio.run(gates.record(base_url, gate))


def fail(ray, error: BaseException, started: float) -> None:
    """Take the half-started deployment down and tell what the engines themselves said."""
    from pdbench import serving

    say(f"launch failed ({type(error).__name__}); stopping what had started")
    lines = cluster.on_every_node(ray, cluster.engine_lines, ENGINE_ERROR, started).values()
    errors = (re.search(ENGINE_ERROR, line)[1][:500] for of_node in lines for line in of_node)
    for error in list(dict.fromkeys(errors))[:5]:
        say(f"an engine said: {error}")
    serving.stop(time.monotonic() + 120)


def stop(args: argparse.Namespace) -> None:
    """Stop the deployment; returns when all is gone."""
    from pdbench import serving

    deadline = time.monotonic() + args.timeout
    try:
        ray = cluster.connect(args.address)
    except ConnectionError:
        say("nothing is running")
        return
    pids = [r["pid"] for r in serving.replicas(serving.serve_details()) if r["pid"]]
    trees = cluster.on_every_node(ray, cluster.process_tree, pids)
    say("stopped" if serving.stop(deadline) else "no deployment was running")
    for ip, left in trees.items():
        while left:
            left = cluster.on_every_node(ray, cluster.process_tree, left)[ip]
            if left and time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} on {ip} are still there")


def status(args: argparse.Namespace) -> int:
    """Print what is running as JSON; 3 if nothing is."""
    from pdbench import serving

    try:
        cluster.connect(args.address)
        details = serving.serve_details()
    except ConnectionError as error:
        details, reason = None, str(error)
    else:
        reason = "Serve is not running on the cluster"
    if not details or APP not in details["applications"]:
        print(json.dumps({"running": False, "reason": reason if not details else "no deployment of this repository"}))
        return 3
    from ray import serve  # after connecting: Ray reads the token's place when it is imported

    app = serve.status().applications[APP]
    counts = {n: {str(getattr(s, "value", s)): c for s, c in d.replica_states.items() if c} for n, d in app.deployments.items()}
    print(json.dumps({"running": True, "status": app.status, "deployments": counts,
                      "replicas": serving.replicas(details)}, indent=2))  # fmt: skip
    return 0 if app.status == "RUNNING" else 1


def say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)


def quiet_loggers() -> None:
    """Ray Serve prints every deployment's options; --dry-run shows them better."""
    for name in ("ray.serve", "ray", "vllm"):
        logging.getLogger(name).setLevel(logging.WARNING)


def dry_run(args: argparse.Namespace) -> None:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    plan, _ = resolve(args, cluster.planned_nodes)
    yaml.dump(plan.model_dump(), sys.stdout, Dumper=Plain, sort_keys=False)
    if args.verbose:
        say(f"warning: {transport.VERBOSE_WARNING}")


def main() -> int:
    args = parse_args()
    try:
        if args.status:
            return status(args)
        (dry_run if args.dry_run else stop if args.stop else launch)(args)
    except (ValueError, ConnectionError, LaunchError, TimeoutError, RuntimeError) as error:
        print(f"launch_gptoss.py: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, (LaunchError, TimeoutError, RuntimeError)) else 2
    except KeyboardInterrupt:
        print("launch_gptoss.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
