#!/usr/bin/env python
"""Start, show and stop one deployment of gpt-oss on Ray Serve LLM: collocated or PD; or a control without Serve."""

import argparse
import json
import sys
import time

from pdbench import interrupts
from pdbench.cli import Parser, not_empty, port, seconds, variable
from pdbench.configs import ROOT, LLMOptions
from pdbench.doctor import before_launch
from pdbench.layout import MODES
from pdbench.nodes import cluster
from pdbench.serve import deployment, roles, serving_path
from pdbench.serve.launch import prepare
from pdbench.serve.options import resolve, warn_if_verbose

DEFAULT_MODEL = ROOT / "configs/models/gpt-oss-120b.yaml"
DEFAULT_HARDWARE = ROOT / "configs/hardware/p5.48xlarge.yaml"
NOTHING_RUNS, UNHEALTHY = 3, 1  # exit codes of --status


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line; exits with 2 on a mistake."""
    parser = Parser(prog="launch_gptoss.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    _add_what(parser)
    _add_path(parser)
    network = parser.add_argument_group("KV transfer (PD)")
    backend = network.add_mutually_exclusive_group()
    backend.add_argument("--use-ucx", dest="backend", action="store_const", const="UCX", default="UCX")
    backend.add_argument("--use-libfabric", dest="backend", action="store_const", const="LIBFABRIC", default=argparse.SUPPRESS)
    network.add_argument("--ucx-tls", type=not_empty, metavar="LIST",
                         help="UCX_TLS of the engines, for example tcp or cuda_ipc,cuda_copy,tcp")  # fmt: skip
    network.add_argument("--verbose", action="store_true", help="NIXL, UCX and vLLM debug logs; distorts results")
    action = parser.add_argument_group("what to do (default: launch and leave it running)")
    action = action.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true", help="print the plan as YAML, start nothing")
    action.add_argument("--status", action="store_true", help="print what is running, as JSON")
    action.add_argument(
        "--roles", type=not_empty, metavar="RATIO", help="pd-pool: change who prefills and who decodes, to p2-d1"
    )
    action.add_argument("--control", type=not_empty, metavar="BOUNDS",
                        help="pd-pool: move the roles with the load, to keep ttft=1000,tpot=12 (ms), or off")  # fmt: skip
    action.add_argument("--stop", action="store_true", help="stop the deployment; returns when all is gone")
    where = parser.add_argument_group("where")
    where.add_argument("--address", help="Ray cluster; default: RAY_ADDRESS, or the one that runs here")
    where.add_argument("--host", type=not_empty, default="127.0.0.1", help="address that the HTTP server binds")
    where.add_argument("--port", type=port, default=8000)
    where.add_argument("--no-doctor", action="store_true", help="launch although checks of debug/doctor.py fail")
    where.add_argument("--timeout", type=seconds, default=1800, metavar="S", help="seconds to wait until it runs, or is gone")
    return parser.parse_args(argv)


def _add_what(parser: Parser) -> None:
    group = parser.add_argument_group("what to deploy")
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("--mode", choices=MODES, default=argparse.SUPPRESS)
    for name in MODES:
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, default=argparse.SUPPRESS)
    group.add_argument("--layout", metavar="LAYOUT", help="4xtp2, or p2xtp2-d1xtp4; instead of the six options below")
    group.add_argument("--tp", "--tensor-parallel-size", type=int, help="collocated: TP size (default 1)")
    group.add_argument("--num", type=int, help="collocated: replicas (default 1)")
    for side, word in (("p", "prefill"), ("d", "decode")):
        group.add_argument(f"--{side}-num", type=int, help=f"PD: {word} replicas (default 1)")
        group.add_argument(f"--{side}-tp", type=int, help=f"PD: TP size of {word} (default 1)")
    group.add_argument("--model", default=DEFAULT_MODEL, metavar="FILE", help="configs/models/*.yaml")
    group.add_argument("--hardware", default=DEFAULT_HARDWARE, metavar="FILE", help="configs/hardware/*.yaml")
    group.add_argument("--model-id", type=not_empty, help="name that clients send, instead of the model file's")
    group.add_argument("--model-source", type=not_empty, help="hub id or folder of the weights, instead of the model file's")
    group.add_argument("--env", action="append", default=[], type=variable, metavar="NAME=VALUE",
                       help="further environment variable of the engines; may be given again")  # fmt: skip
    group.add_argument("--engine-arg", action="append", default=[], type=variable, metavar="NAME=VALUE",
                       help="engine argument of vLLM, over those of both files; prefill:NAME and decode:NAME are of one "
                            "role's engines; VALUE is YAML; may be given again")  # fmt: skip
    group.add_argument("--decode-bench", action="store_true",
                       help="collocated: fill KV caches instead of computing them, to bench decode-only")  # fmt: skip


def _add_path(parser: Parser) -> None:
    group = parser.add_argument_group("the path through Ray Serve (see configs/serve.yaml)")
    group.add_argument("--ingress-replicas", type=int, help="HTTP ingress replicas, instead of the hardware file's")
    group.add_argument("--router", choices=serving_path.ROUTERS, help="request routing policy",
                       default=serving_path.ServingPath().router)  # fmt: skip
    group.add_argument("--direct-streaming", action="store_true",
                       help="no ingress: HAProxy hands requests to the engines' replicas")  # fmt: skip
    group.add_argument("--serve-env", action="append", default=[], type=variable, metavar="NAME=VALUE",
                       help="environment variable of Ray Serve, over configs/serve.yaml's; may be given again")  # fmt: skip
    group.add_argument("--llm-option", action="append", default=[], type=variable, metavar="NAME=VALUE",
                       help=f"option of Ray Serve LLM; may be given again: {', '.join(LLMOptions.model_fields)}")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit code."""
    deadline = time.monotonic() + args.timeout
    if args.status:
        found = deployment.status(args.address)
        print(json.dumps(found, indent=2))
        return {None: NOTHING_RUNS, "RUNNING": 0}.get(found.get("status"), UNHEALTHY)
    if args.roles:
        print("\n".join(roles.change(f"http://{args.host}:{args.port}", args.roles)))
        return 0
    if args.control:
        print(roles.control(f"http://{args.host}:{args.port}", args.control))
        return 0
    if args.stop:
        deployment.stop(args.address, deadline)
        return 0
    if args.dry_run:
        sys.stdout.write(resolve(args, cluster.planned_nodes)[0].to_yaml())
        warn_if_verbose(args)
        return 0
    ray, plan, model = prepare(args)
    warn_if_verbose(args)
    if not args.no_doctor:
        before_launch.consult(ray, args, plan)
    deployment.start(ray, plan, model, deadline)
    return 0


def main() -> int:
    """Run the command line; returns the exit code: 2 after a mistake, 1 after a failure, each with a line on stderr."""
    args = parse_args()
    try:
        return run(args)
    except (ValueError, ConnectionError, TimeoutError, RuntimeError) as error:
        print(f"launch_gptoss.py: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, (TimeoutError, RuntimeError)) else 2


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "launch_gptoss.py"))
