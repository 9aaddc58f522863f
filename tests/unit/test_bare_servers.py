"""Servers of a control arm over HTTP: whether each completes a request."""

import asyncio
import contextlib
import json
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from pdbench.serve import keeper
from pdbench.serve.bare_servers import Keeper, engine_counts
from pdbench.serve.client import ServerError
from pdbench.serve.readiness import REMOTE_DECODE, ask_servers
from tests.helpers.answering import Answering


class Handler(Answering):
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


def test_engines_are_counted_without_what_is_gone_and_the_router():
    found = [{"role": role, "runs": role != "gone"} for role in ("prefill", "decode", "decode", "gone", "ingress")]
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


def test_a_server_that_fails_or_is_gone_is_reported(start):
    (prefill, p), (decode, _) = start("prefill", "p0"), start("decode", "d0")
    p.status = 500
    with pytest.raises(ServerError, match="answered 500"):
        asyncio.run(ask_servers([prefill, decode], "m"))
    with pytest.raises(ServerError, match="no prefill server runs"):
        asyncio.run(ask_servers([prefill | {"runs": False}, decode], "m"))


def test_a_server_gets_paths_of_its_own_node(tmp_path, monkeypatch):
    """Ray expands variables of its workers' environment, and a bare server is to find the same folders."""
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "serve"
    program.write_text('#!/bin/sh\nprintf %s "$TRITON_CACHE_DIR" >"$HOME/seen"\n')
    program.chmod(0o755)
    of_node = Keeper("one", "collocated")
    asked = {"TRITON_CACHE_DIR": "${HOME}/.triton/cache"}
    of_node.start("http://127.0.0.1:1", str(program), asked, Path(keeper.__file__).read_text())
    assert of_node.process.wait(30) == 0
    assert (tmp_path / "seen").read_text() == f"{tmp_path}/.triton/cache"
