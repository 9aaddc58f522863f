"""Read the options of launch_gptoss.py into the plan of a launch; every mistake that can be seen before something starts."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import yaml

from pdbench.cli import is_secret
from pdbench.configs import PD_ROLES, HardwareConfig, ModelConfig, check_free, check_role, load_hardware, load_model, load_serve
from pdbench.layout import CONTROLS, MODES, POOL, Layout, Pool, placed_as
from pdbench.network import ucx
from pdbench.network.transport import Transport
from pdbench.nodes import cluster, stack
from pdbench.serve import counters, serving_path
from pdbench.serve.control_plan import control_of
from pdbench.serve.engine_ports import SIDE_CHANNEL
from pdbench.serve.plan import Plan, make_plan, with_decode_bench

SIZES = ("tp", "num", "p_num", "p_tp", "d_num", "d_tp")
# Environment variables that are not the user's.
OWN = {
    counters.ENV: "engines keep their counters where a level's gates read them",
    SIDE_CHANNEL: "every engine of a node would take this one port",
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "every engine would announce this one address, whatever its node",
    "UCX_TLS": "--ucx-tls sets it, and the manifest records that",
    "UCX_PROTO_INFO": "it is always y: what UCX prints proves the transport",
}


def resolve(
    args: argparse.Namespace, nodes_of: Callable[[HardwareConfig, Layout, str], list[cluster.Node]]
) -> tuple[Plan, ModelConfig]:
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
    if model.role_kwargs and (mode == POOL or not layout.is_pd):
        why = "each engine takes both roles" if mode == POOL else "there are no roles"
        raise ValueError(f"engine arguments of one role ({', '.join(model.role_kwargs)}) with mode {mode}: {why}")
    model.check_kv(hardware.engine_kwargs, layout.is_pd)
    stack.check_tensor_parallel(layout, model.kv.heads, stack.vllm_version())
    nodes = cluster.of_kind(nodes_of(hardware, layout, mode), hardware.accelerator_type)
    placement = cluster.place(layout, mode, nodes, hardware.accelerator)
    how = Transport(backend=args.backend, ucx_tls=args.ucx_tls, verbose=args.verbose)
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
        plan = control_of(plan, mode, placement, head.ip if head else "<head>")
    return plan, model


def read_configs(args: argparse.Namespace) -> tuple[ModelConfig, HardwareConfig]:
    """Read the model's and the hardware's file, with what the options change in them.

    Raises:
        ValueError: a file is missing or wrong, or an environment variable or an engine argument is not the user's.
    """
    model, hardware = load_model(args.model), load_hardware(args.hardware)
    if args.model_id:
        model = model.model_copy(update={"model_id": args.model_id})
    if args.model_source:
        model = model.model_copy(
            update={"model_source": args.model_source, "tiny": None, "shape": None, "kv_cache": model.kv_given}
        )
    env = hardware.env | dict(args.env)
    if wrong := next((name for name in OWN if name in env), None):
        raise ValueError(f"{wrong}: {OWN[wrong]}; leave it out of --env and of {args.hardware}")
    if secret := next((name for name in env if is_secret(name)), None):
        raise ValueError(
            f"{secret} would be recorded with the results: leave it out of {args.hardware}, and set it on the nodes"
        )
    return _with_engine_args(model, args.engine_arg), hardware.model_copy(update={"env": env})


def _with_engine_args(model: ModelConfig, given: list[tuple[str, str]]) -> ModelConfig:
    """The model with the engine arguments of --engine-arg: NAME of all engines, prefill:NAME or decode:NAME of one role's."""
    for text, value in given:
        before, colon, name = text.rpartition(":")
        role = PD_ROLES.get(before)
        try:
            if role:
                of_role = check_role(model.role_kwargs.get(role, {}) | {name: _value(text, value)})
                model = model.model_copy(update={"role_kwargs": model.role_kwargs | {role: of_role}})
            elif colon:
                raise ValueError(f"{text}: write NAME, prefill:NAME or decode:NAME")
            else:
                engine = check_free(model.engine_kwargs | {name: _value(text, value)})
                model = model.model_copy(update={"engine_kwargs": engine})
        except ValueError as error:
            raise ValueError(f"--engine-arg {str(error).removeprefix('--engine-arg ')}") from None
    return model


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(
            f"--engine-arg {name}: {text!r} is no YAML: quote it, or give a number, true, false or {{...}}"
        ) from None


def read_layout(args: argparse.Namespace) -> tuple[Layout, str]:
    """Read the layout and mode that the options spell.

    Raises:
        ValueError: none is named, or two contradict each other.
    """
    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    mode = getattr(args, "mode", None)
    if args.layout is not None:
        if sizes:
            raise ValueError(f"give either --layout or {_flags(sizes)}, not both")
        layout = Layout.parse(args.layout)
    elif mode is None:
        raise ValueError(f"name a --mode ({', '.join(MODES)}) and a --layout such as 4xtp2 or p2xtp2-d1xtp4")
    else:
        layout = _layout_of(mode, sizes)
    if mode is None and layout.is_pd:
        raise ValueError(f"layout {layout} needs --pd-pack, --pd-spread or --pd-pool")
    return layout, mode or "collocated"


def _layout_of(mode: str, sizes: dict[str, int]) -> Layout:
    """The layout of a mode with these of SIZES; what is not given is 1."""
    is_collocated = placed_as(mode) == "collocated"
    known = SIZES[:2] if is_collocated else SIZES[2:]
    if not sizes.keys() <= set(known):
        fitting = "--tp and --num" if is_collocated else "--p-num, --p-tp, --d-num and --d-tp"
        raise ValueError(f"mode {mode} takes {fitting}, not {_flags(sizes)}")
    size = dict.fromkeys(SIZES, 1) | sizes
    if is_collocated:
        return Layout(Pool(size["num"], size["tp"]))
    return Layout(prefill=Pool(size["p_num"], size["p_tp"]), decode=Pool(size["d_num"], size["d_tp"]))


def _flags(sizes: dict[str, int]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in sizes)


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
    if mode == POOL and (wrong := next((option for option in ("--router", "--direct-streaming") if given[option]), None)):
        raise ValueError(f"mode {mode} has a router of its own, which knows who prefills: leave {wrong} out")
    if args.direct_streaming and args.ingress_replicas is not None:
        raise ValueError("--direct-streaming leaves the ingress out: leave --ingress-replicas out, too")
    ray = stack.Stack.installed().ray
    serve_env, llm = dict(args.serve_env), dict(args.llm_option)
    return serving_path.choose(load_serve(), serve_env, llm, args.direct_streaming, args.router, ray)


def warn_if_verbose(args: argparse.Namespace) -> None:
    """Say on stderr that debug logs distort results, where they are on."""
    if args.verbose:
        print(f"launch: warning: {ucx.VERBOSE_WARNING}", file=sys.stderr)
