#!/usr/bin/env python
"""Start, show and stop one deployment of gpt-oss on Ray Serve LLM: collocated or PD; or a control without Serve."""

import argparse
import json
import os
import sys
import time

from pdbench import interrupts
from pdbench.cli import Parser, port, seconds, variable
from pdbench.configs import ROOT, HardwareConfig, LLMOptions, ModelConfig, load_hardware, load_model, load_serve
from pdbench.layout import CONTROLS, MODES, Layout, Pool, placed_as
from pdbench.network import slow_link, transport, ucx
from pdbench.nodes import cluster, stack
from pdbench.serve import bare, counters, serving_path
from pdbench.serve.engine_ports import SIDE_CHANNEL
from pdbench.serve.serving import LaunchError, Plan, make_plan, with_decode_bench

DEFAULT_MODEL = ROOT / "configs/models/gpt-oss-120b.yaml"
DEFAULT_HARDWARE = ROOT / "configs/hardware/p5.48xlarge.yaml"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="launch_gptoss.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
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
    what.add_argument("--model-id", type=_not_empty, help="name that clients send, instead of the model file's")
    what.add_argument("--model-source", type=_not_empty, help="hub id or folder of the weights, instead of the model file's")
    what.add_argument("--env", action="append", default=[], type=variable, metavar="NAME=VALUE",
                      help="further environment variable of the engines; may be given again")  # fmt: skip
    what.add_argument("--decode-bench", action="store_true",
                      help="collocated: fill KV caches instead of computing them, to bench decode-only")  # fmt: skip
    path = parser.add_argument_group("the path through Ray Serve (see configs/serve.yaml)")
    path.add_argument("--ingress-replicas", type=int, help="HTTP ingress replicas, instead of the hardware file's")
    path.add_argument("--router", choices=serving_path.ROUTERS, help="request routing policy",
                      default=serving_path.ServingPath().router)  # fmt: skip
    path.add_argument("--direct-streaming", action="store_true",
                      help="no ingress: HAProxy hands requests to the engines' replicas")  # fmt: skip
    path.add_argument("--serve-env", action="append", default=[], type=variable, metavar="NAME=VALUE",
                      help="environment variable of Ray Serve, over configs/serve.yaml's; may be given again")  # fmt: skip
    path.add_argument("--llm-option", action="append", default=[], type=variable, metavar="NAME=VALUE",
                      help=f"option of Ray Serve LLM; may be given again: {', '.join(LLMOptions.model_fields)}")  # fmt: skip
    network = parser.add_argument_group("KV transfer (PD)")
    backend = network.add_mutually_exclusive_group()
    backend.add_argument("--use-ucx", dest="backend", action="store_const", const="UCX", default="UCX")
    backend.add_argument("--use-libfabric", dest="backend", action="store_const", const="LIBFABRIC", default=argparse.SUPPRESS)
    network.add_argument("--ucx-tls", type=_not_empty, metavar="LIST",
                         help="UCX_TLS of the engines, for example tcp or cuda_ipc,cuda_copy,tcp")  # fmt: skip
    network.add_argument("--verbose", action="store_true", help="NIXL, UCX and vLLM debug logs; distorts results")
    action = parser.add_argument_group("what to do (default: launch and leave it running)")
    action = action.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="print the plan as YAML, start nothing")
    action.add_argument("--status", action="store_true", help="print what is running, as JSON")
    action.add_argument("--stop", action="store_true", help="stop the deployment; returns when all is gone")
    where = parser.add_argument_group("where")
    where.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or the one that runs here")
    where.add_argument("--host", type=_not_empty, default="127.0.0.1", help="address that the HTTP server binds")
    where.add_argument("--port", type=port, default=8000)
    where.add_argument("--no-doctor", action="store_true", help="launch although checks of debug/doctor.py fail")
    where.add_argument("--timeout", type=seconds, default=1800, metavar="S", help="seconds to wait until it runs, or is gone")
    return parser.parse_args(argv)


def read_layout(args: argparse.Namespace) -> tuple[Layout, str]:
    """Read the layout and mode that the options spell.

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
        is_collocated = placed_as(mode) == "collocated"
        if (is_collocated and pd) or (not is_collocated and len(pd) != len(given)):
            fitting = "--tp and --num" if is_collocated else "--p-num, --p-tp, --d-num and --d-tp"
            raise ValueError(f"mode {mode} takes {fitting}, not {flags}")
        size = {"num": 1, "tp": 1, "p_num": 1, "p_tp": 1, "d_num": 1, "d_tp": 1} | given
        if is_collocated:
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
        model = model.model_copy(update={"model_source": args.model_source, "tiny": None, "shape": None, "kv_cache": model.kv})
    env = hardware.env | dict(args.env)
    own = {counters.ENV: "engines keep their counters where a level's gates read them",
           SIDE_CHANNEL: "every engine of a node would take this one port"}  # fmt: skip
    if wrong := next((name for name in own if name in env), None):
        raise ValueError(f"{wrong}: {own[wrong]}; leave it out of --env and of {args.hardware}")
    return model, hardware.model_copy(update={"env": env})


def _not_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: leave the option out, or name something")
    return text


def resolve(args: argparse.Namespace, nodes_of) -> tuple[Plan, ModelConfig]:
    """Make the plan that the options ask for; `nodes_of(hardware, layout, mode)` says what nodes there are.

    Raises:
        ValueError: any mistake that can be seen before something starts.
    """
    model, hardware = read_configs(args)
    layout, mode = read_layout(args)
    if args.backend == "LIBFABRIC" and args.ucx_tls:
        raise ValueError("--ucx-tls goes with --use-ucx, not with --use-libfabric")
    if args.ingress_replicas is not None and args.ingress_replicas < 1:
        raise ValueError(f"--ingress-replicas must be at least 1, not {args.ingress_replicas}")
    stack.check_tensor_parallel(layout, model.kv.heads, stack.vllm_version())
    nodes = cluster.of_kind(nodes_of(hardware, layout, mode), hardware.accelerator_type)
    placement = cluster.place(layout, mode, nodes, hardware.accelerator)
    how = transport.Transport(backend=args.backend, ucx_tls=args.ucx_tls, verbose=args.verbose)
    path = read_path(args, mode)
    # Where no node is known to be the head, as in a dry run, nothing can be said.
    head = next((node for node in nodes if node.is_head), None)
    serving_path.check_host(path, args.host, head is not None and placement.decode != head)
    ingress = args.ingress_replicas or hardware.ingress_replicas
    plan = make_plan(model, hardware, layout, placed_as(mode), placement, how, path, ingress, args.host, args.port)
    if args.decode_bench:
        stack.check_decode_bench(stack.vllm_version())
        plan = with_decode_bench(plan)
    if mode in CONTROLS:
        plan = bare.control_of(plan, mode, placement, head.ip if head else "<head>")
    return plan, model


def read_path(args: argparse.Namespace, mode: str) -> serving_path.ServingPath:
    """Read how requests are to reach the engines.

    Raises:
        ValueError: options that contradict each other, or the mode.
    """
    default = serving_path.ServingPath().router
    given = {"--router": args.router != default, "--ingress-replicas": args.ingress_replicas is not None,
             "--direct-streaming": args.direct_streaming, "--serve-env": args.serve_env,
             "--llm-option": args.llm_option}  # fmt: skip
    if mode in CONTROLS:
        if wrong := next((option for option, is_given in given.items() if is_given), None):
            raise ValueError(f"mode {mode} runs without Ray Serve: leave {wrong} out")
        return serving_path.ServingPath()
    if args.direct_streaming and args.ingress_replicas is not None:
        raise ValueError("--direct-streaming leaves the ingress out: leave --ingress-replicas out, too")
    ray = stack.Stack.installed().ray
    serve_env, llm = dict(args.serve_env), dict(args.llm_option)
    return serving_path.choose(load_serve(), serve_env, llm, args.direct_streaming, args.router, ray)


def connect(args: argparse.Namespace, plan: Plan):
    """Connect Ray as what starts `plan`, and return it.

    Raises:
        ConnectionError: there is no cluster; the message says how to start one on this machine.
    """
    env = plan.path.env if plan.path else {}
    # This process builds the app: how its replicas speak to each other is decided here. Its own requests come from several
    # event loops, one after the other, and a router of Serve's would end with the first.
    os.environ |= env | {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}
    try:
        return cluster.connect(args.address, env)
    except ConnectionError as error:
        gpus = f" --workers 0 --gpus {plan.gpus_per_node}" if plan.accelerator != "CPU" else ""
        raise ConnectionError(f"{error}; to start one on this machine: python -m pdbench.local_cluster start{gpus}") from None


def launch(args: argparse.Namespace) -> None:
    """Start the deployment and return when every replica has answered a real request."""
    from pdbench.serve import deployment

    deadline = time.monotonic() + args.timeout
    plan, _ = resolve(args, cluster.planned_nodes)  # mistakes that need no cluster to be seen
    ray = connect(args, plan)
    deployment.refuse_a_second()  # before its GPUs and ports are found busy
    if fewer := deployment.fewer_connections(ray, plan.path, dict(args.serve_env)):
        args.serve_env.append(fewer)
        ray.shutdown()  # the environment of what a driver starts is settled when it connects
        ray = connect(args, resolve(args, cluster.planned_nodes)[0])
    plan, model = resolve(args, lambda hardware, *_: cluster.read_nodes(ray, hardware.accelerator))
    warn_if_verbose(args)
    if not args.no_doctor:
        consult_doctor(ray, args, plan)
    deployment.start(ray, plan, model, deadline)


def consult_doctor(ray, args: argparse.Namespace, plan: Plan) -> None:
    """Print what is doubtful about the nodes.

    Raises:
        LaunchError: something there is wrong; each fault was printed in a line, with its fix.
    """
    from pdbench.doctor.examination import examine

    _, hardware = read_configs(args)
    ports = serving_path.ports(plan.path or serving_path.ServingPath(), args.host, args.port)
    wanted = set(hardware.env)  # what engines are given, they do not inherit from their node
    wanted |= set(ucx.LOUD_LEVELS) if args.verbose else set()
    wanted |= {"UCX_TLS"} if args.ucx_tls or args.backend == "LIBFABRIC" else set()
    wanted |= {"slow link"} if slow_link.UCX_ENV.items() <= hardware.env.items() else set()
    nodes = cluster.of_kind(cluster.read_nodes(ray, hardware.accelerator), hardware.accelerator_type)
    chosen = {ip for role, ip in plan.placement.items() if role != "ingress"}
    engines_on = {node.ip for node in nodes if node.accelerators and (node.ip in chosen or "any" in chosen)}
    found = examine(ray, quick=True, ports=ports, ignore=wanted, hardware=hardware, engines_on=engines_on)
    for finding in found.of("warn"):
        print(f"launch: warning: {finding.line}", file=sys.stderr)
    for finding in found.of("fail"):
        print(f"launch: doctor: {finding.line}", file=sys.stderr)
    if failures := len(found.of("fail")):
        raise LaunchError(f"nothing was started: {failures} of the doctor's checks failed; --no-doctor launches anyway")


def stop(args: argparse.Namespace) -> None:
    """Stop the deployment; returns when all is gone."""
    from pdbench.serve import deployment

    try:
        ray = cluster.connect(args.address)
    except ConnectionError:
        print("launch: nothing is running", file=sys.stderr)
        return
    deployment.stop(ray, time.monotonic() + args.timeout)


def status(args: argparse.Namespace) -> int:
    """Print what is running as JSON; 3 if nothing is."""
    from pdbench.serve import deployment

    try:
        cluster.connect(args.address)
    except ConnectionError as error:
        running, reason = None, str(error)
    else:
        running, reason = deployment.status(), "no deployment of this repository is on the cluster"
    print(json.dumps(running or {"running": False, "reason": reason}, indent=2))
    return 3 if not running else 0 if running["status"] == "RUNNING" else 1


def warn_if_verbose(args: argparse.Namespace) -> None:
    if args.verbose:
        print(f"launch: warning: {ucx.VERBOSE_WARNING}", file=sys.stderr)


def dry_run(args: argparse.Namespace) -> None:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    plan, _ = resolve(args, cluster.planned_nodes)
    yaml.dump(plan.model_dump(), sys.stdout, Dumper=Plain, sort_keys=False)
    warn_if_verbose(args)


def main() -> int:
    args = parse_args()
    try:
        if args.status:
            return status(args)
        (dry_run if args.dry_run else stop if args.stop else launch)(args)
    except (ValueError, ConnectionError, LaunchError, TimeoutError, RuntimeError) as error:
        print(f"launch_gptoss.py: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, (LaunchError, TimeoutError, RuntimeError)) else 2
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "launch_gptoss.py"))
