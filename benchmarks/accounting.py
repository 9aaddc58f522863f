"""Where a token's time goes: CPU of each process on its way, latencies as each stage exports them, profiles."""

import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from pdbench import local_cluster

STAGES = ("client", "proxy", "ingress", "frontend", "engine core", "engine rank", "Ray")
HISTOGRAM = re.compile(r"^(\w+)_(sum|count)\{(.*)\} (\S+)$", re.MULTILINE)


@contextlib.contextmanager
def profiled(deployment: dict, client_pid: int, folder: Path):
    """py-spy's samples of each Python process on the way, one file of speedscope.app for each in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).with_name("py-spy"))
    spies = []
    for pid, (stage, _) in cpu_seconds(deployment, client_pid).items():
        if stage not in ("Ray", "proxy") or "Proxy" in title(psutil.Process(pid)):
            out = folder / f"{stage.replace(' ', '_')}_{pid}.json"
            command = [program, "record", "-n", "-f", "speedscope", "-o", str(out), "-p", str(pid)]
            spies.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        yield
    finally:
        for spy in spies:
            spy.send_signal(signal.SIGINT)  # then it writes what it has
            spy.wait()


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) or process.name()
    return ""


def cpu_seconds(deployment: dict, client_pid: int) -> dict[int, tuple[str, float]]:
    """CPU seconds so far of every process of the cluster and of the client: {pid: (stage, seconds)}."""
    roles = {replica["pid"]: "ingress" if replica["role"] == "ingress" else "frontend" for replica in deployment["replicas"]}
    found = {}
    for process in [*local_cluster.marked(local_cluster.state()["mark"]), psutil.Process(client_pid)]:
        with contextlib.suppress(psutil.Error):
            name = title(process)
            if process.pid == client_pid:
                stage = "client"
            elif name.startswith("VLLM::EngineCore"):
                stage = "engine core"
            elif name.startswith("VLLM::Worker"):
                stage = "engine rank"
            elif "ProxyActor" in name or "haproxy" in name:
                stage = "proxy"
            else:
                stage = roles.get(process.pid, "ingress" if "LLMRouter" in name else "Ray")
            times = process.cpu_times()
            found[process.pid] = (stage, times.user + times.system)
    return found


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def histograms() -> dict[str, tuple[float, float]]:
    """Sum and count of each latency that Ray exports, of the model's app: {stage: (ms, requests)}; none for a control."""
    with local_cluster.connected(local_cluster.state()) as ray:
        urls = [
            f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes() if node["Alive"]
        ]
    found: dict[str, list[float]] = {}
    for url in urls:
        for name, kind, labels, value in HISTOGRAM.findall(get(url)):
            if stage := stage_of(name, labels):
                scale = 1e3 if name.startswith("ray_vllm") else 1.0
                total = found.setdefault(stage, [0.0, 0.0])
                total[kind == "count"] += float(value) * (scale if kind == "sum" else 1.0)
    return {stage: (ms, count) for stage, (ms, count) in found.items()}


def stage_of(name: str, labels: str) -> str | None:
    """Whose latency a metric is: of the whole answer, as the proxy, the ingress, the engine's replica or vLLM saw it."""
    if name == "ray_serve_http_request_latency_ms" and 'application="pdbench"' in labels:
        return "proxy"
    if name == "ray_serve_deployment_processing_latency_ms" and 'application="pdbench"' in labels:
        deployments = {"OpenAiIngress": "ingress", "LLMServer": "replica", "Decode": "replica"}
        return next((stage for name, stage in deployments.items() if f'deployment="{name}' in labels), None)
    # P and D both have one; of P's answers each is a single token.
    return "engine" if name == "ray_vllm_e2e_request_latency_seconds" else None


def grown(before: dict[str, tuple[float, float]], requests: int) -> dict[str, float]:
    """Mean latency, ms, since `before`, once Ray has exported all of it; only of stages that saw every request.

    vLLM's is of prefill and decode together: each answers every request.
    """
    deadline, last = time.monotonic() + 60, {}
    while before and time.monotonic() < deadline:
        now = histograms()
        grew = {stage: tuple(a - b for a, b in zip(now[stage], before[stage], strict=True)) for stage in before}
        if grew == last and grew["engine"][1] >= requests:
            return {stage: ms / requests for stage, (ms, count) in grew.items() if count in (requests, 2 * requests)}
        last = grew
        time.sleep(11.0)  # longer than Ray takes to export
    return {}
