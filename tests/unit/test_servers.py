"""Servers of a control arm over HTTP: their counters, and whether each completes a request."""

import asyncio
import contextlib
import json
import threading
from http.server import ThreadingHTTPServer

import pytest
from answering import Answering

from pdbench.client import ServerError
from pdbench.describe import COUNTERS
from pdbench.readiness import REMOTE_DECODE, ask_servers
from pdbench.servers import counters, engine_counts

# As vLLM 0.29 writes it, shortened.
METRICS = """\
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 1.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0
vllm:request_success_created{engine="0",finished_reason="length",model_name="m"} 1.795498629785e+09
vllm:nixl_bytes_transferred_sum{engine="0",model_name="m"} 131072.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 20.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1e+03
python_gc_objects_collected_total{generation="0"} 5.0
"""
VLLM_NAMES = {exported.replace("ray_vllm_", "vllm:"): name for name, exported in COUNTERS.items()}


class Handler(Answering):
    def do_GET(self):
        self.answer(200, METRICS)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        params = {"remote_block_ids": [[1]]} if body.get("kv_transfer_params") == REMOTE_DECODE else None
        self.answer(self.server.status, json.dumps({"choices": [], "kv_transfer_params": params}))


@pytest.fixture
def start():
    """Start a server of a role; returns its state and the server."""
    with contextlib.ExitStack() as running:

        def start(role, name, runs=True):
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            server.asked, server.status = [], 200
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            running.callback(server.shutdown)
            url = f"http://127.0.0.1:{server.server_port}"
            return {"role": role, "replica_id": name, "url": url, "runs": runs}, server

        yield start


def test_counters_add_up_over_the_servers_of_a_role(start):
    found = [start("prefill", "p0")[0], start("decode", "d0")[0], start("decode", "d1")[0]]
    found += [start("decode", "gone", runs=False)[0], start("ingress", "router")[0]]
    one = {"requests": 3.0, "kv_bytes": 131072.0, "prefix_cache_hits": 1000.0}
    assert asyncio.run(counters(found, VLLM_NAMES)) == {"prefill": one, "decode": {k: 2 * v for k, v in one.items()}}
    assert engine_counts(found) == {"prefill": 1, "decode": 2}


def test_every_server_is_asked_and_decode_with_what_prefill_has_computed(start):
    (prefill, p), (first, d0), (second, d1) = start("prefill", "p0"), start("decode", "d0"), start("decode", "d1")
    router, r = start("ingress", "router")
    answered = asyncio.run(ask_servers([prefill, first, second, router], "m"))
    assert answered == {"prefill": ["p0"], "decode": ["d0", "d1"]}
    assert len(p.asked) == 3 and r.asked == []
    for decode, computed in ((d0, p.asked[1]), (d1, p.asked[2])):
        (body,) = decode.asked
        assert body["kv_transfer_params"] == {"remote_block_ids": [[1]]} and body["prompt"] == computed["prompt"]
        assert (computed["max_tokens"], body["max_tokens"]) == (1, 2)


def test_collocated_servers_are_asked_alone(start):
    (first, a), (second, b) = start("collocated", "c0"), start("collocated", "c1")
    assert asyncio.run(ask_servers([first, second], "m")) == {"collocated": ["c0", "c1"]}
    assert len(a.asked) == len(b.asked) == 1 and "kv_transfer_params" not in a.asked[0]


def test_a_server_that_fails_or_is_gone_is_told(start):
    (prefill, p), (decode, _) = start("prefill", "p0"), start("decode", "d0")
    p.status = 500
    with pytest.raises(ServerError, match="answered 500"):
        asyncio.run(ask_servers([prefill, decode], "m"))
    with pytest.raises(ServerError, match="no prefill server runs"):
        asyncio.run(ask_servers([prefill | {"runs": False}, decode], "m"))
