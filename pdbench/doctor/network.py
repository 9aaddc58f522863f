"""Check GPUs and what can carry a KV cache between them: cards, RDMA, EFA's SRD, GPUDirect and NIXL's backends."""

import re
from collections.abc import Iterable

from packaging.version import Version

from pdbench.doctor.facts import Backend, Facts
from pdbench.doctor.findings import Finding
from pdbench.nodes.stack import parse_version

SRD_SINCE = Version("1.20")  # UCX: srd reads and writes; before it, UCX on EFA falls to ud_verbs at 0.18 GB/s
DMABUF_SINCE = Version("5.12")  # Linux: a card may map another one's memory
INSTALL_EFA = "run Amazon's aws-efa-installer there, and restart Ray"


def check_hardware(node: str, facts: Facts) -> list[Finding]:
    """Check GPUs, cards and NUMA: what there is, and what does not answer."""
    return [_gpus(node, facts), *_nics(node, facts), *_rdma(node, facts), Finding(
        name="NUMA", nodes=[node], status="ok", seen=_numa(facts))]  # fmt: skip


def check_transports(node: str, facts: Facts) -> list[Finding]:
    """Check what UCX and NIXL need in order to use that hardware; the libraries only after a full examination."""
    found = [*_efa(node, facts), _gpudirect(node, facts)]
    return found + [_backend(node, facts, backend) for backend in facts.backends or []]


def alike(nodes: dict[str, Facts]) -> list[Finding]:
    """Check that nodes with GPUs have the same ones, and the same RDMA ports."""
    with_gpu = {node: facts for node, facts in sorted(nodes.items()) if facts.gpus.names}
    found = []
    for name, describe in (("same GPUs", lambda facts: _counted(facts.gpus.names)), ("same RDMA ports", _ports)):
        seen = {node: describe(facts) for node, facts in with_gpu.items()}
        if len(set(seen.values())) > 1:
            found.append(Finding(
                name=name, nodes=list(seen), status="warn", seen="; ".join(f"{what} on {node}" for node, what in seen.items()),
                reason="arms on different nodes would not compare",
                fix="use nodes of one kind, or a hardware file with the accelerator_type of one: engines go to no other then",
            ))  # fmt: skip
    return found


def _gpus(node: str, facts: Facts) -> Finding:
    gpus, common = facts.gpus, {"name": "GPUs", "nodes": [node]}
    if gpus.error:
        return Finding(**common, status="fail", seen=gpus.error, reason=f"{gpus.on_bus} NVIDIA cards are plugged in",
                       fix="install the NVIDIA driver, or reboot after its update")  # fmt: skip
    if not gpus.names:
        return Finding(**common, status="n/a", seen="none", reason="no NVIDIA card is plugged in")
    return Finding(**common, status="ok", seen=_counted(gpus.names))


def _nics(node: str, facts: Facts) -> list[Finding]:
    cards = [nic for nic in facts.nics if nic.name != "lo"]
    down = [nic.name for nic in cards if not nic.is_up]
    seen = ", ".join(f"{n.name} {_speed(n.mbit)}" for n in cards if n.is_up)
    if not seen:
        return [Finding(name="NICs", nodes=[node], status="n/a", seen="loopback alone", reason="no network card is up")]
    reason = f"down: {', '.join(down)}" if down else ""
    return [Finding(name="NICs", nodes=[node], status="ok", seen=seen, reason=reason)]


def _rdma(node: str, facts: Facts) -> list[Finding]:
    if not facts.rdma:
        # With GPUs and none of these, a KV cache that crosses nodes goes over TCP.
        status = "warn" if facts.gpus.names and not facts.efa.devices else "n/a"
        fix = "use nodes with EFA or InfiniBand, or pack P and D; over TCP, larger segments help (docs/GPU.md)"
        slow = {"reason": "KV caches that cross nodes go over TCP", "fix": fix}
        none = {"reason": "no InfiniBand, RoCE or EFA card"}
        return [Finding(name="RDMA", nodes=[node], status=status, seen="none", **(slow if status == "warn" else none))]
    down = [port.name for port in facts.rdma if not port.is_active]
    seen = _ports(facts)
    if down:
        return [Finding(name="RDMA", nodes=[node], status="warn", seen=f"down: {', '.join(down)}; up: {seen}",
                        reason="less bandwidth than the node has", fix="check the links with ibstat and dmesg")]  # fmt: skip
    return [Finding(name="RDMA", nodes=[node], status="ok", seen=seen)]


def _efa(node: str, facts: Facts) -> list[Finding]:
    efa, names = facts.efa, ("EFA", "SRD for UCX")
    if not efa.devices:
        return [Finding(name=name, nodes=[node], status="n/a", seen="none", reason="no EFA card") for name in names]
    cards = f"{efa.devices} cards"
    if efa.module is None:
        first = Finding(name="EFA", nodes=[node], status="fail", seen=f"{cards}, kernel module efa is not loaded",
                        reason="without it there is no RDMA", fix=f"modprobe efa, or {INSTALL_EFA}")  # fmt: skip
    else:
        installer = f", installer {efa.installer}" if efa.installer else ""
        first = Finding(name="EFA", nodes=[node], status="ok", seen=f"{cards}, module {efa.module or 'in kernel'}{installer}")
    return [first, _srd(node, facts)]


def _srd(node: str, facts: Facts) -> Finding:
    ucx, common = facts.versions.get("ucx"), {"name": "SRD for UCX", "nodes": [node]}
    if not ucx or not re.match(r"\d", ucx):
        return Finding(**common, status="fail", seen="NIXL brings no UCX", reason="no KV transfer would use EFA",
                       fix="pip install nixl>=0.8.0, whose wheel brings UCX 1.20")  # fmt: skip
    if parse_version(ucx) < SRD_SINCE:
        return Finding(**common, status="fail", seen=f"UCX {ucx}", fix="nixl >= 0.8.0, or NIXL built against UCX 1.20",
                       reason="before UCX 1.20 SRD cannot read: KV goes over ud_verbs at 0.18 GB/s")  # fmt: skip
    for name in ("libefa.so.1", "ucx-efa") if facts.libraries is not None else ():
        if error := facts.libraries.get(name):
            return Finding(**common, status="fail", seen=error, reason="UCX's EFA transport needs the host's libefa",
                           fix=f"{INSTALL_EFA}; or apt install libefa1")  # fmt: skip
    looked = "libefa and UCX's EFA transport load" if facts.libraries is not None else "libraries are checked without --quick"
    return Finding(**common, status="ok", seen=f"UCX {ucx}: {looked}")


def _gpudirect(node: str, facts: Facts) -> Finding:
    common = {"name": "GPUDirect", "nodes": [node]}
    if not (facts.gpus.names and facts.has_rdma):
        missing = "GPU" if not facts.gpus.names else "RDMA card"
        return Finding(**common, status="n/a", seen="none", reason=f"no {missing}")
    kernel = re.match(r"\d+(\.\d+)*", facts.gpudirect.kernel)
    if facts.gpudirect.peermem:
        return Finding(**common, status="ok", seen="nvidia_peermem")
    if facts.gpudirect.open_driver and kernel and parse_version(kernel[0]) >= DMABUF_SINCE:
        return Finding(**common, status="ok", seen=f"dmabuf (open driver, Linux {kernel[0]})")
    return Finding(**common, status="warn", seen="neither nvidia_peermem nor dmabuf",
                   reason="the card cannot read GPU memory: KV is copied through the host",
                   fix="modprobe nvidia_peermem, or install the open NVIDIA kernel modules (dmabuf)")  # fmt: skip


def _backend(node: str, facts: Facts, backend: Backend) -> Finding:
    common = {"name": f"NIXL {backend.name}", "nodes": [node]}
    if backend.loads:
        return Finding(**common, status="ok", seen="loads")
    if backend.name == "UCX":
        return Finding(**common, status="fail", seen=backend.error, reason="no KV cache moves without it",
                       fix="pip install --force-reinstall nixl there; see NIXL_PLUGIN_DIR and LD_LIBRARY_PATH")  # fmt: skip
    missing = [name for name in ("libfabric.so.1", "libhwloc.so.15") if (facts.libraries or {}).get(name)]
    why = f"the host has no {' and no '.join(missing)}" if missing else backend.error
    if facts.efa.devices:
        return Finding(**common, status="warn", seen=why, reason="--use-libfabric would fail; UCX is the default",
                       fix=f"{INSTALL_EFA}; apt install libhwloc15")  # fmt: skip
    return Finding(**common, status="n/a", seen="does not load", reason=f"{why}; it is for EFA, which is not here")


def _ports(facts: Facts) -> str:
    ports = [port for port in facts.rdma if port.is_active]
    return _counted(f"{port.driver or 'port'} {port.rate or 'of unknown rate'}" for port in ports) or "none"


def _counted(names: Iterable[str]) -> str:
    """`8 x NVIDIA H100`; several kinds follow each other."""
    names = list(names)
    return ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))


def _speed(mbit: int | None) -> str:
    return f"{mbit / 1000:g} Gbit/s" if mbit else "of unknown speed"


def _numa(facts: Facts) -> str:
    places: dict[int, list[str]] = {}
    for card in [*facts.rdma, *facts.nics]:
        if card.numa is not None:
            places.setdefault(card.numa, []).append(card.name)
    where = "; ".join(f"{number}: {', '.join(names)}" for number, names in sorted(places.items()))
    return f"{facts.numa_nodes} node{'s' * (facts.numa_nodes > 1)}" + (f" ({where})" if where else "")
