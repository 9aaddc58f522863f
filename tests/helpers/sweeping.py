"""A small server that describes itself, and run_bm.sh with a stand-in for vLLM's bench client: for the tests of sweeps."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer

from pdbench.configs import ROOT
from tests.helpers.answering import Answering

# In place of vLLM's modules: writes what the real client would. Its environment may make it fail at a
# level, to die, or to hang.
STAND_IN = {
    "__init__.py": "",
    "benchmarks/serve.py": """\
import json, os, sys, time, urllib.request

def add_cli_args(parser):
    pass

def main(arguments):
    given = dict(zip(arguments, arguments[1:]))
    path = os.path.join(given["--result-dir"], given["--result-filename"])
    if given["--result-filename"] == os.environ.get("FAILS"):
        raise RuntimeError("no such luck")
    if given["--result-filename"] == os.environ.get("DIES"):
        os._exit(3)
    if os.environ.get("STALLS"):  # after so many requests
        from tqdm import tqdm
        bar = tqdm(total=int(given["--num-prompts"]))
        bar.update(int(os.environ["STALLS"]))
        open(path + ".pid", "w").write(str(os.getpid()))
        time.sleep(300)
    time.sleep(0.2)  # else its own start is all that it has used a core for
    urllib.request.urlopen(given["--base-url"] + "/finished", data=given["--num-prompts"].encode())
    content = json.loads(os.environ["CONTENT"]) | {"arguments": arguments, "pid": os.getpid()}
    content["max_concurrency"] = int(given.get("--max-concurrency", 0)) or None
    content["request_rate"] = float(given.get("--request-rate", "inf"))
    if content["max_concurrency"]:  # 95% of it in flight
        each = 950 * content["max_concurrency"] * content["duration"] / content["completed"]
        content |= {"mean_tpot_ms": each / 20, "mean_ttft_ms": each / 2}  # 10 tokens after the first
    open(path, "w").write(json.dumps(content))
    if os.environ.get("HANGS"):
        open(path + ".pid", "w").write(str(os.getpid()))
        time.sleep(300)
    return content
""",
    "utils/argparse_utils.py": """\
class FlexibleArgumentParser:
    def __init__(self, prog):
        pass

    def parse_args(self, arguments):
        return arguments
""",
}
NAMES = ["-e", "x", "--isl", "100", "--osl", "11"]


class FakeServer(ThreadingHTTPServer):
    def __init__(self, deployment=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.deployment, self.requests, self.seeds = deployment, [], []
        self.models = {"data": [{"id": "served"}]}
        self.prefix = ""  # in front of every route
        self.key = None  # that every request must bring
        self.hangs_at = None  # number of a request that never ends
        self.events = None
        self.finished = 0  # requests of bench clients
        self.gone = threading.Event()  # ends what hangs
        self.compiled = {"monitored": 0, "kernels": []}
        self.compiles = []  # kernels that each further measurement compiles
        self.cold = []  # kernels that further requests compile, one each
        self.behind = []  # servers that take requests in its place


class Handler(Answering):
    def refused(self):
        """Whether the request was answered for want of the key, which the answer repeats."""
        if self.server.key in (None, brought := self.headers.get("Authorization", "").removeprefix("Bearer ")):
            return False
        self.answer(401, json.dumps({"error": f"wrong key: {brought}"}))
        return True

    def do_GET(self):
        if self.refused():
            return None
        known = {
            "/v1/models": self.server.models,
            "/pdbench/deployment": self.server.deployment,
            "/pdbench/seeds": self.server.seeds,
            "/pdbench/counters": self.counters(),
            "/pdbench/compilations": self.server.compiled,
        }
        content = known.get(self.path.removeprefix(self.server.prefix)) if self.path.startswith(self.server.prefix) else None
        self.answer(404 if content is None else 200, json.dumps({"error": "unknown"} if content is None else content))

    def counters(self):
        done = sum(server.finished + len(server.requests) for server in (self.server, *self.server.behind))
        return {"collocated": {"requests": done, "prefix_cache_queries": 100 * done, "prefix_cache_hits": 0}}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/finished" and self.refused():
            return None
        if not self.path.startswith(self.server.prefix):
            return self.answer(404, "{}")
        self.path = self.path.removeprefix(self.server.prefix)
        if self.path == "/finished":
            self.server.finished += body
            self.server.compiled["kernels"] += self.server.compiles.pop(0) if self.server.compiles else []
            return self.answer(200, "{}")
        if self.path == "/pdbench/ready":
            self.server.finished += 2
            reported = {"counts": {"LLMServer:m": 2}, "answered": {"LLMServer:m": ["a", "b"]}, "requests": 2}
            return self.answer(200, json.dumps(reported))
        if self.path == "/pdbench/seeds":
            self.server.seeds += body
            return self.answer(200, "{}")
        self.server.requests.append(body)
        if len(self.server.requests) == self.server.hangs_at:
            self.server.gone.wait(60)
            return None
        with contextlib.suppress(IndexError):
            self.server.compiled["kernels"].append(self.server.cold.pop())
        piece = {"choices": [{"text": "ab "}]}
        events = [piece] * body["max_tokens"] if self.server.events is None else self.server.events
        self.answer(200, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")


@contextlib.contextmanager
def serving(server):
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.gone.set()
        server.shutdown()
        thread.join()


def sweeper(tmp_path, content):
    """Runs run_bm.sh from elsewhere, whose levels are all of this content; keywords are for the stand-in's environment."""
    for name, text in STAND_IN.items():
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def sweep(*options, start=False, **environment):
        command = [ROOT / "run_bm.sh", "--results-dir", tmp_path / "results", *options]
        env = os.environ | {"PYTHON": sys.executable, "CONTENT": json.dumps(content)} | environment
        env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(list(map(str, command)), env=env, cwd=tmp_path, **pipes)
        if start:
            return process
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return sweep
