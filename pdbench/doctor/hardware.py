"""Collect GPUs, network cards and what the kernel reports of them: nvidia-smi, /sys and /proc."""

import contextlib
import os
import platform
import re
import subprocess
from pathlib import Path

import psutil

from pdbench.nodes.gpus import TIMEOUT_S, named, query

SYS = Path("/sys")
NVIDIA, AMAZON = "0x10de", "0x1d0f"
EFA_DEVICE = re.compile(r"0xefa\d")
INSTALLER = Path("/opt/amazon/efa_installed_packages")


def gpus() -> dict:
    on_bus = sum(vendor == NVIDIA and kind.startswith("0x03") for vendor, _, kind in _pci())
    try:
        run, holders = query("gpu", "index", "uuid", "memory.used", "memory.total", "name"), query("compute-apps", "pid")
    except FileNotFoundError:
        return {"on_bus": on_bus, "error": "there is no nvidia-smi" if on_bus else None}
    except subprocess.TimeoutExpired:
        return {"on_bus": on_bus, "error": f"nvidia-smi did not answer within {TIMEOUT_S} s"}
    if run.returncode:
        return {"on_bus": on_bus, "error": (run.stdout + run.stderr).strip().split("\n")[0] or "nvidia-smi failed"}
    rows = [row for line in run.stdout.strip().splitlines() if len(row := line.split(", ", 4)) == 5]
    if not rows:  # such as `No devices were found`
        return {"on_bus": on_bus, "error": run.stdout.strip().split("\n")[0] or "nvidia-smi lists no GPU"}
    visible = named(_ray_environment())
    return {
        "names": [name for *_, name in rows], "on_bus": on_bus, "holders": sorted(set(holders.stdout.split())),
        "used": [_mib(used) for _, _, used, _, _ in rows], "total": [_mib(total) for _, _, _, total, _ in rows],
        "hidden": [] if visible is None else [number for number, (index, uuid, *_) in enumerate(rows)
                                              if not any(index == name or uuid.startswith(name) for name in visible)],
    }  # fmt: skip


def _mib(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _ray_environment() -> dict[str, str]:
    """The environment of the raylet above this process, since Ray hides all GPUs from tasks that ask for none; else its own."""
    with contextlib.suppress(psutil.Error, OSError):
        for process in psutil.Process().parents():
            if process.name() == "raylet":
                return process.environ()
    return dict(os.environ)


def nics() -> list[dict]:
    """Return cards with hardware behind them, and loopback; bridges, tunnels and containers' ends are left out."""
    found = []
    for card in sorted((SYS / "class/net").glob("*")):
        if card.name == "lo" or (card / "device").exists():
            mbit = _number(card / "speed")
            state = _word(card / "operstate")
            found.append({
                "name": card.name, "is_up": state == "up" or (card.name == "lo" and state == "unknown"),
                "mbit": mbit if mbit and mbit > 0 else None, "numa": _numa(card / "device"),
            })  # fmt: skip
    return found


def rdma() -> list[dict]:
    found = []
    for port in sorted((SYS / "class/infiniband").glob("*/ports/*")):
        device = port.parent.parent
        driver = device / "device/driver"
        found.append({
            "name": f"{device.name}:{port.name}", "driver": driver.resolve().name if driver.exists() else None,
            "is_active": "ACTIVE" in (_word(port / "state") or ""), "rate": _word(port / "rate"),
            "numa": _numa(device / "device"),
        })  # fmt: skip
    return found


def numa_nodes() -> int:
    return max(1, len(list((SYS / "devices/system/node").glob("node[0-9]*"))))


def efa() -> dict:
    installer = re.search(r"EFA installer version: (\S+)", INSTALLER.read_text()) if INSTALLER.is_file() else None
    return {
        "devices": sum(vendor == AMAZON and bool(EFA_DEVICE.match(device)) for vendor, device, _ in _pci()),
        "module": (_word(SYS / "module/efa/version") or "") if (SYS / "module/efa").exists() else None,
        "installer": installer[1] if installer else None,
    }


def gpudirect() -> dict:
    with contextlib.suppress(OSError):
        version = Path("/proc/driver/nvidia/version").read_text()
        return {"peermem": (SYS / "module/nvidia_peermem").exists(), "open_driver": "Open Kernel Module" in version,
                "kernel": platform.release()}  # fmt: skip
    return {"kernel": platform.release()}


def _pci() -> list[tuple[str, str, str]]:
    """Vendor, device and class of each card on the bus."""
    names = ("vendor", "device", "class")
    cards = (SYS / "bus/pci/devices").glob("*")
    return [tuple(_word(card / name) or "" for name in names) for card in cards]


def _numa(device: Path) -> int | None:
    node = _number(device / "numa_node")
    return node if node is not None and node >= 0 else None  # -1: the machine has no such nodes


def _number(path: Path) -> int | None:
    word = _word(path)
    return int(word) if word and re.fullmatch(r"-?\d+", word) else None


def _word(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # absent, or the kernel has no answer for this device
        return None
