"""Check environment variables that hurt, on the nodes (their engines inherit them) and in the driver's shell."""

from pdbench.doctor.facts import Facts
from pdbench.doctor.findings import Finding
from pdbench.network.ucx import LOCAL_WORDS, LOUD_LEVELS, REMOTE_WORDS, loud

DRIVER = "this shell"
# Where an engine offers its KV cache to others.
SIDE_CHANNEL = {
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "every engine of the node would take this one port; unset, Ray gives each its own",
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "every engine would announce this one address; unset, Ray gives each its node's",
}
FIX = "unset it where Ray is started there, then restart Ray"


def check_environment(node: str, facts: Facts) -> list[Finding]:
    """Check what the variables of one node do to its engines."""
    env = facts.environment
    found = [_loud(node, env, name) for name in LOUD_LEVELS] + [_ucx_tls(node, facts)]
    for name, reason in SIDE_CHANNEL.items():
        if value := env.get(name):
            found.append(Finding(name=name, nodes=[node], status="fail", seen=value, reason=reason, fix=FIX))
        else:
            found.append(Finding(name=name, nodes=[node], status="ok", seen="unset"))
    return found


def check_driver(env: dict[str, str]) -> list[Finding]:
    """Check the same of the driver's shell: engines do not inherit it, but a local cluster that is started from it does."""
    found = []
    for finding in check_environment(DRIVER, Facts(environment=env)):
        if finding.status in ("warn", "fail"):
            here = "in this shell: nodes and clients that are started from it inherit it"
            found.append(finding.model_copy(update={"status": "warn", "reason": f"{finding.reason} ({here})",
                                                    "fix": f"unset {finding.name}"}))  # fmt: skip
    return found


def check_authentication(nodes: dict[str, Facts], driver: dict[str, str]) -> Finding:
    """Check whether nodes and driver agree on Ray's token, and whether a cluster that others can reach demands one."""
    modes: dict[str, list[str]] = {}
    for node, mode in [*((n, f.environment.get("RAY_AUTH_MODE")) for n, f in nodes.items()),
                       (DRIVER, driver.get("RAY_AUTH_MODE"))]:  # fmt: skip
        modes.setdefault(mode or "unset", []).append(node)
    seen = "; ".join(f"{mode} on {', '.join(sorted(some))}" for mode, some in sorted(modes.items()))
    common = {"name": "RAY_AUTH_MODE", "nodes": sorted(nodes)}
    if len(modes) > 1:
        # A driver that differs has connected all the same; the next one may not.
        status = "warn" if len({facts.environment.get("RAY_AUTH_MODE") for facts in nodes.values()}) == 1 else "fail"
        return Finding(**common, status=status, seen=seen, reason="nodes that require a token refuse nodes that send none",
                       fix="export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH in every shell")  # fmt: skip
    if "unset" in modes and not all(node.startswith("127.") for node in nodes):
        return Finding(**common, status="warn", seen="unset", reason="anyone who reaches Ray's ports can run code on the nodes",
                       fix="start Ray with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH")  # fmt: skip
    return Finding(**common, status="ok", seen=next(iter(modes)))


def _loud(node: str, env: dict[str, str], name: str) -> Finding:
    value = env.get(name, "")
    if name not in loud(env):
        return Finding(name=name, nodes=[node], status="ok", seen=value or "unset")
    return Finding(name=name, nodes=[node], status="warn" if name.startswith("VLLM") else "fail", seen=value,
                   reason="debug logging distorts what is measured", fix=FIX)  # fmt: skip


def _ucx_tls(node: str, facts: Facts) -> Finding:
    text = facts.environment.get("UCX_TLS", "")
    common = {"name": "UCX_TLS", "nodes": [node], "seen": text or "unset"}
    if not text or text == "all":
        return Finding(**common, status="ok")
    tcp, rdma, local = left_by(text)
    rdma = rdma and facts.has_rdma
    if not (tcp or rdma):
        return Finding(**common, status="fail", fix=f"add tcp to the list, or {FIX}",
                       reason="leaves no transport with active messages: NIXL cannot connect")  # fmt: skip
    if not rdma and (facts.has_rdma or not local):
        status = "fail" if facts.has_rdma or facts.gpus.names else "warn"
        lost = "RDMA" if facts.has_rdma else "shared memory and cuda_ipc"
        return Finding(**common, status=status, reason=f"leaves only tcp: {lost} is not used, 10 to 20 times slower on GPUs",
                       fix=f"{FIX}; to force TCP for one deployment: launch_gptoss.py --ucx-tls tcp")  # fmt: skip
    return Finding(**common, status="ok")


def left_by(text: str) -> tuple[bool, bool, bool]:
    """Return whether a value of UCX_TLS leaves tcp, RDMA, and a fast path inside a node; `^` names what it takes away."""
    # `rc_x` is a kind of rc; a backslash forces what would not be taken by itself. `cuda_copy` only stages for others.
    names = [name.strip().lower().lstrip("\\") for name in text.removeprefix("^").split(",")]
    kinds = {name.split("_")[0] for name in names if not name.endswith("_copy")}
    if text.startswith("^"):
        return "tcp" not in kinds, not ("ib" in kinds or {"rc", "ud", "srd"} <= kinds), not kinds & {"sm", "shm"}
    is_all = "all" in kinds
    return is_all or "tcp" in kinds, is_all or bool(kinds & REMOTE_WORDS), is_all or bool(kinds & LOCAL_WORDS)
