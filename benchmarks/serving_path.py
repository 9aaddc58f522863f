#!/usr/bin/env python3
"""What stands between client and engine, side by side: plain vLLM, Ray Serve as it comes, and with its options.

    python benchmarks/serving_path.py                        # control, Ray's defaults, this repository's; 1 and 1P:1D engines
    python benchmarks/serving_path.py --alone --of 1xtp1     # each option alone, too
    python benchmarks/serving_path.py --py-spy profiles/     # a profile of every Python process on the way

On a local cluster of this machine, which must not run yet. Each arm is launched by launch_gptoss.py and measured with
`vllm bench serve`; prints what it reached beside the control, the CPU time that a token costs in each process on its way, and
where the time of a token went: from the client's, Ray Serve's and vLLM's own latencies. Ratios are of one run on one
machine, the control measured first and again at the end; --json keeps all numbers.
"""

import argparse
import contextlib
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pdbench import local_cluster  # noqa: E402
from pdbench.cli import Parser, positive  # noqa: E402
from pdbench.files import write_atomically  # noqa: E402

URL = "http://127.0.0.1:8000"
STACK = ["--model", "configs/models/gpt-oss-tiny.yaml", "--hardware", "configs/hardware/cpu.yaml", "--no-doctor"]
MODES = {"1xtp1": ("bare", "collocated"), "p1xtp1-d1xtp1": ("bare-pd", "pd-pack")}
CONTROL, AGAIN = "bare", "bare, again"
HAPROXY, OPTIMIZED = "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"
OFF = {HAPROXY: "0", OPTIMIZED: "0"}
# Options of launch_gptoss.py by arm; what is not named is as configs/serve.yaml has it.
ARMS: dict[str, dict[str, Any]] = {
    CONTROL: {},
    "Ray's defaults": {"serve_env": OFF},
    "ours": {},
    "direct streaming": {"more": ["--direct-streaming", "--host", "0.0.0.0"]},
}
# Each beside Ray's defaults. What RAY_SERVE_THROUGHPUT_OPTIMIZED stands for comes first, part by part.
ALONE: dict[str, dict[str, Any]] = {
    "one event loop": {"serve_env": OFF | {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
                                           "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}},
    "gRPC": {"serve_env": OFF | {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1"}},
    "buffered logs": {"serve_env": OFF | {"RAY_SERVE_LOG_TO_STDERR": "0", "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000"}},
    "throughput optimized": {"serve_env": OFF | {OPTIMIZED: "1"}},
    "HAProxy": {"serve_env": OFF | {HAPROXY: "1"}},
    "4 ingress replicas": {"serve_env": OFF, "more": ["--ingress-replicas", "4"]},
    "streams in batches of 50 ms": {"serve_env": OFF, "batching_ms": 50},
    "ours, in batches of 50 ms": {"batching_ms": 50},
}  # fmt: skip
REACHED = ("request_throughput", "median_ttft_ms", "median_tpot_ms", "median_itl_ms", "p99_itl_ms")
STAGES = ("client", "proxy", "ingress", "frontend", "engine core", "engine rank", "Ray")
HISTOGRAM = re.compile(r"^(\w+)_(sum|count)\{(.*)\} (\S+)$", re.MULTILINE)
console = Console(highlight=False)


def main() -> int:
    args = parse_args()
    arms = ARMS | (ALONE if args.alone else {}) | {AGAIN: {}}
    if args.arms:
        arms = {name: options for name, options in arms.items() if name in (CONTROL, AGAIN, *args.arms)}
    found: list[dict[str, Any]] = []
    with cluster(), client() as ask:
        for layout in args.of:
            for number, (name, options) in enumerate(arms.items(), start=1):
                console.print(f"{time.strftime('%H:%M:%S')} {layout}: arm {number} of {len(arms)}, {name}")
                with deployed(layout, name, options):
                    found += measure(ask, layout, name, args)
                if args.json:
                    write_atomically(args.json, json.dumps(found, indent=2))
    for layout in args.of:
        show([row for row in found if row["layout"] == layout], layout)
    return 0


def parse_args() -> argparse.Namespace:
    parser = Parser(prog="serving_path.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", nargs="+", choices=MODES, default=list(MODES), metavar="LAYOUT", help=f"of {', '.join(MODES)}")
    parser.add_argument("--alone", action="store_true", help="each option alone, too")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help=f"only these, beside the control: {', '.join(ARMS | ALONE)}")
    parser.add_argument("--levels", nargs="+", type=positive, default=[1, 8], metavar="N", help="requests in flight")
    parser.add_argument("--requests", type=positive, default=40, help="of each level (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=1, help="measurements of each level (default: %(default)s)")
    parser.add_argument("--isl", type=positive, default=500)
    parser.add_argument("--osl", type=positive, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here")
    parser.add_argument("--py-spy", type=Path, metavar="DIR", help="profile the last level once more, for speedscope.app")
    args = parser.parse_args()
    if unknown := set(args.arms or []) - set(ARMS | ALONE):
        parser.error(f"no arm {min(unknown)}: there are {', '.join(ARMS | ALONE)}")
    args.alone = args.alone or bool(args.arms and set(args.arms) & set(ALONE))
    return args


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def cluster():
    run("-m", "pdbench.local_cluster", "start", "--workers", "1")
    try:
        yield
    finally:
        run("-m", "pdbench.local_cluster", "stop")


@contextlib.contextmanager
def deployed(layout: str, name: str, options: dict[str, Any]):
    control, behind_ray = MODES[layout]
    words = [*STACK, "--layout", layout, "--mode", control if name in (CONTROL, AGAIN) else behind_ray]
    words += [
        word for variable, value in options.get("serve_env", {}).items() for word in ("--serve-env", f"{variable}={value}")
    ]
    with tempfile.TemporaryDirectory() as folder:
        if interval := options.get("batching_ms"):
            model = Path(folder) / "model.yaml"
            text = (ROOT / STACK[1]).read_text()
            model.write_text(text.replace("stream_batching_interval_ms: 0", f"stream_batching_interval_ms: {interval}"))
            words += ["--model", str(model)]
        try:
            run("launch_gptoss.py", *words, *options.get("more", []))
            yield
        finally:
            run("launch_gptoss.py", "--stop")


@contextlib.contextmanager
def client():
    """vLLM's bench client in a process of its own, loaded once; yields what runs it with options and returns its process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "pdbench.bench_client", str(log)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, **pipes) as process:

            def ask(url: str, level: int, requests: int, isl: int, osl: int) -> dict[str, Any]:
                words = ["--backend", "vllm", "--base-url", url, "--endpoint", "/v1/completions", "--model", "gpt-oss-tiny"]
                words += ["--tokenizer", str(ROOT / ".cache/models/gpt-oss-tiny"), "--dataset-name", "random", "--ignore-eos"]
                words += ["--random-prefix-len", "8", "--random-input-len", str(isl - 8), "--random-output-len", str(osl)]
                words += ["--temperature", "0", "--num-prompts", str(requests), "--max-concurrency", str(level)]
                # Never the same prompts twice.
                words += ["--seed", str(time.time_ns() % 2**31), "--percentile-metrics", "ttft,tpot,itl,e2el"]
                words += ["--save-result", "--result-dir", folder, "--result-filename", "result.json"]
                process.stdin.write(shlex.join(words) + "\n")
                process.stdin.flush()
                status, *_ = process.stdout.readline().split() or ["its end"]
                result = json.loads((Path(folder) / "result.json").read_text()) if status == "0" else {"completed": 0}
                if result["completed"] != requests:
                    raise SystemExit(
                        f"the bench client ended with {status}, {result['completed']} of {requests}:\n{log.read_text()[-2000:]}"
                    )
                return result

            ask.pid = process.pid
            yield ask
            process.stdin.close()


def measure(ask, layout: str, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every level of an arm: what the client saw, CPU ms per token and stage, and mean latency by who measured it."""
    deployment = json.loads(get(f"{URL}/pdbench/deployment"))
    url = deployment.get("serving_url", URL)
    most = max(args.levels)
    ask(url, most, 2 * most, args.isl, args.osl)  # warm
    rows = []
    for level in args.levels * args.repeats:
        before, latencies = cpu_seconds(deployment, ask.pid), histograms()
        result = ask(url, level, args.requests, args.isl, args.osl)
        after = cpu_seconds(deployment, ask.pid)
        tokens = result["total_output_tokens"]
        used = {stage: sum(after[pid][1] - before[pid][1] for pid in after if pid in before and after[pid][0] == stage)
                for stage in STAGES}  # fmt: skip
        rows.append({
            "layout": layout, "arm": name, "level": level,
            **{key: result[key] for key in REACHED},
            "cores": sum(used.values()) / result["duration"],
            "cpu_ms_per_token": {stage: 1e3 * seconds / tokens for stage, seconds in used.items()},
            "latency_ms": {"client": result["mean_e2el_ms"], **grown(latencies, args.requests)},
        })  # fmt: skip
    if args.py_spy:
        profile(ask, deployment, url, args.py_spy / f"{layout} {name}".replace(" ", "_"), args)
    return rows


def profile(ask, deployment: dict, url: str, folder: Path, args: argparse.Namespace) -> None:
    """py-spy's samples of each Python process on the way, at the last level; what is measured then does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    spies = []
    for pid, (stage, _) in cpu_seconds(deployment, ask.pid).items():
        if stage not in ("Ray", "proxy") or "Proxy" in title(psutil.Process(pid)):
            out = folder / f"{stage.replace(' ', '_')}_{pid}.json"
            command = [
                str(Path(sys.executable).with_name("py-spy")),
                "record",
                "-n",
                "-f",
                "speedscope",
                "-o",
                str(out),
                "-p",
                str(pid),
            ]
            spies.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        ask(url, args.levels[-1], args.requests, args.isl, args.osl)
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


def show(rows: list[dict[str, Any]], layout: str) -> None:
    """Three tables: what was reached beside the control, CPU by stage, and the latencies."""
    reached = Table(title=f"{layout}: beside the control")
    for column in ("arm", "level", "requests/s", "of bare", "TPOT, ms", "of bare", "TTFT, ms", "p99 ITL, ms", "cores"):
        reached.add_column(column, justify="left" if column == "arm" else "right")
    cpu = Table(title=f"{layout}: CPU time per output token, ms")
    for column in ("arm", "level", *STAGES):
        cpu.add_column(column, justify="left" if column in ("arm",) else "right")
    names = ("client", "proxy", "ingress", "replica", "engine")
    wall = Table(title=f"{layout}: mean latency of a whole answer as seen by each, ms")
    for column in ("arm", "level", *names):
        wall.add_column(column, justify="left" if column == "arm" else "right")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for level in dict.fromkeys(row["level"] for row in rows):
            mine = median_of(rows, {arm}, level)
            bare = median_of(rows, {CONTROL, AGAIN}, level)
            rate, tpot = mine["request_throughput"], mine["median_tpot_ms"]
            words = [f"{rate:.2f}", f"{rate / bare['request_throughput']:.2f}"]
            words += [f"{tpot:.1f}", f"{tpot / bare['median_tpot_ms']:.2f}"]
            words += [f"{mine['median_ttft_ms']:.0f}", f"{mine['p99_itl_ms']:.0f}", f"{mine['cores']:.2f}"]
            reached.add_row(arm, str(level), *words)
            used, seen = mine["cpu_ms_per_token"], mine["latency_ms"]
            cpu.add_row(arm, str(level), *(f"{used[stage]:.2f}" for stage in STAGES))
            wall.add_row(arm, str(level), *(f"{seen[name]:.0f}" if name in seen else "" for name in names))
    for table in (reached, cpu, wall):
        console.print(table)


def median_of(rows: list[dict[str, Any]], arms: set[str], level: int) -> dict[str, Any]:
    """Medians over the measurements of a level, inner dictionaries' too."""
    some = [row for row in rows if row["arm"] in arms and row["level"] == level]

    def of(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: of([value[key] for value in values if key in value]) for key in values[0]}
        return statistics.median(values)

    return {key: of([row[key] for row in some]) for key in some[0] if key not in ("layout", "arm", "level")}


if __name__ == "__main__":
    sys.exit(main())
