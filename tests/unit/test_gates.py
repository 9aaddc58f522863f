"""The checks before measuring, against a small server that answers like a deployment of this repository."""

import asyncio
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdbench.manifest import Deployment
from pdbench.measure import gates, level_gates
from pdbench.measure.tokens import MARGIN, MAX_DRAWS, NEW_TOKENS, _decided, agree, compare, varied
from pdbench.serve.client import ServerError

CONTINUATION = [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("expected", "got", "passed", "seen"),
    [
        (CONTINUATION, CONTINUATION, True, "2 of 2 continuations equal, 6 tokens compared"),
        # Only what the model was decided on is compared.
        ([[1, 2], [4]], [[1, 2, 9], [4, 9, 9]], True, "2 of 2 continuations equal, 3 tokens compared"),
        (CONTINUATION, [[1, 2, 3], [4, 0, 6]], False, "1 of 2 continuations equal, 6 tokens compared; "
         "prompt 1 (7 tokens) differs from token 1 on: [4, 0, 6] instead of [4, 5, 6]"),
        (CONTINUATION, [[0, 2, 3, 8, 9], [0, 5, 6]], False, "0 of 2 continuations equal, 6 tokens compared; "
         "prompt 0 (5 tokens) differs from token 0 on: [0, 2, 3] instead of [1, 2, 3]"),
        (CONTINUATION, [[1, 2], [4, 5, 6]], False, "1 of 2 continuations equal, 6 tokens compared; "
         "prompt 0 (5 tokens) differs from token 2 on: [1, 2] instead of [1, 2, 3]"),
        (CONTINUATION, [[], [4, 5, 6]], False, "1 of 2 continuations equal, 6 tokens compared; "
         "prompt 0 (5 tokens) differs from token 0 on: [] instead of [1, 2, 3]"),
        # Where nothing is compared, nothing is proved.
        ([], [], False, "0 of 0 continuations equal, 0 tokens compared"),
        ([[1], []], [[1], [2]], False, "2 of 2 continuations equal, 1 tokens compared"),
    ],
)  # fmt: skip
def test_tokens_are_compared_one_by_one(expected, got, passed, seen):
    gate = compare([[0] * 5, [0] * 7][: len(expected)], expected, got)
    assert (gate.name, gate.passed, gate.seen) == ("token-equality", passed, seen)


def test_a_continuation_too_few_is_no_comparison():
    with pytest.raises(ValueError, match="shorter"):
        compare([[0]], CONTINUATION, CONTINUATION[:1])


tokens = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=5)


@given(tokens, st.data())
def test_any_single_wrong_token_is_noticed(expected, data):
    got = [list(c) for c in expected]
    assert compare([[0]] * len(got), expected, got).passed
    which = data.draw(st.integers(0, len(got) - 1))
    at = data.draw(st.integers(0, len(got[which]) - 1))
    got[which][at] += 1
    gate = compare([[0]] * len(got), expected, got)
    assert not gate.passed and f"prompt {which} (1 tokens) differs from token {at} on" in gate.seen


def choice(*margins):
    """A continuation 0, 1, 2, ... whose best tokens lead by these margins."""
    best = [{f"t{i}": -0.5, "other": -0.5 - margin, "third": -9.0} for i, margin in enumerate(margins)]
    return {"token_ids": list(range(len(margins))), "logprobs": {"top_logprobs": best}}


def test_a_continuation_counts_up_to_the_first_close_call():
    assert _decided(choice(1.0, 2.0, 3.0)) == [0, 1, 2]
    assert _decided(choice(1.0, MARGIN / 2, 3.0)) == [0]
    assert _decided(choice(0.0, 1.0)) == []
    assert _decided(choice(1.0, MARGIN * 1.01)) == [0, 1]
    assert _decided(choice()) == []


def test_a_margin_that_nobody_knows_is_no_decision():
    same_text = choice(1.0, 1.0)
    same_text["logprobs"]["top_logprobs"][1] = {"\ufffd": -0.5}
    assert _decided(same_text) == [0]


def parted(token_ids, at, second, behind):
    """A continuation whose second best token at `at` is `second`, that many nats behind."""
    best = [{f"token_id:{t}": -0.1, "token_id:99": -5.0} for t in token_ids]
    best[at] = {f"token_id:{token_ids[at]}": -0.1, f"token_id:{second}": -0.1 - behind}
    return {"token_ids": token_ids, "logprobs": {"top_logprobs": best}}


EXPECTED = [list(range(20)), list(range(20, 40))]
SAME = parted(EXPECTED[0], 0, 99, 5.0)


@pytest.mark.parametrize(
    ("choice", "passed", "seen"),
    [
        (SAME | {"token_ids": EXPECTED[1]}, True, "100.0% of 40 leading tokens agree; at 0 divergences"),
        (parted([*range(20, 38), 77, 77], 18, 38, 0.4), True, "95.0% of 40 leading tokens agree; at 1 divergences the "
         "expected token is at most 0.40 nats behind"),
        (parted([*range(20, 38), 77, 77], 18, 38, 0.6), False, "at most 0.60 nats behind"),
        (parted([*range(20, 38), 77, 77], 18, 66, 0.1), False, "at most inf nats behind"),
        (parted([*range(20, 37), 77, 77, 77], 17, 37, 0.1), False, "92.5% of 40 leading tokens agree"),
    ],
)  # fmt: skip
def test_on_gpus_leading_tokens_agree_and_part_by_little(choice, passed, seen):
    gate = agree(EXPECTED, [SAME, choice])
    assert (gate.name, gate.passed) == ("token-agreement", passed) and seen in gate.seen


def test_nothing_compared_is_no_agreement():
    assert not agree([], []).passed


@pytest.mark.parametrize(
    ("continuations", "verdict"),
    [
        ([[1, 2], [3, 4], [5, 6]], True),
        ([[7, 7]] * 5, False),  # one continuation whatever the prompt
        ([[i, i] for i in range(9)], False),  # one token repeated
        ([[1, 2]] * 2 + [[3, 4]], False),
        ([[i, i + 1] for i in range(19)] + [[0, 1]], True),  # a single repetition is an accident
        ([], False),
    ],
)
def test_continuations_must_tell_a_right_cache_from_a_wrong_one(continuations, verdict):
    assert varied(continuations) is verdict


class FakeDeployment(ThreadingHTTPServer):
    """Continuations depend on the whole prompt; what a test changes goes wrong."""

    def __init__(self, make_manifest):
        super().__init__(("127.0.0.1", 0), Handler)
        self.manifest, self.ready = make_manifest, {"Prefill:m": ["p"], "Decode:m": ["d1", "d2"]}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.mode, self.checksum, self.transport = "collocated", "abc", {"backend": "UCX", "ucx_tls": "tcp"}
        self.transports, self.gates, self.salts, self.margin = ["tcp/lo"], [], [], 1.0
        self.counters = {"kv_bytes": 5.0, "kv_transfers": 1.0}
        self.transfers, self.failing, self.expiring, self.constant = True, 0, 0, False
        self.corrupts = lambda prompt: False
        self.context, self.layout = 128 + NEW_TOKENS, "p1xtp1-d1xtp1"

    def complete(self, body):
        prompt = body["prompt"]
        if self.transfers:
            self.counters["kv_transfers"] += 1
            self.counters["kv_bytes"] += 1024 * len(prompt)
        self.salts.append(body["cache_salt"])
        seen = [] if self.constant else [*prompt, "corrupt"] if self.corrupts(prompt) else prompt
        ids = list(hashlib.sha256(json.dumps(seen).encode()).digest()[: body["max_tokens"]])
        best = [{str(token): -1.0, "other": -1.0 - self.margin} for token in ids]
        return {"choices": [{"token_ids": ids, "logprobs": {"top_logprobs": best}}]}

    def deployment(self):
        reported = {
            "model_id": "m", "accelerator": "CPU", "model_checksum": self.checksum, "mode": self.mode, "layout": self.layout,
            "transport": self.transport, "llm_configs": {"x": {"engine_kwargs": {"max_model_len": self.context}}},
        }  # fmt: skip
        return self.manifest(**reported).deployment.model_dump()

    def counters_of_two_replicas(self):
        more = {"kv_failed": float(self.failing), "kv_expired": float(self.expiring)}
        return {"decode": self.counters | (more if self.salts else {}), "prefill": {"kv_bytes": 0.0}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        self.answer({
            "/pdbench/deployment": server.deployment, "/pdbench/transports": lambda: server.transports,
            "/pdbench/counters": server.counters_of_two_replicas,
        }[self.path]())  # fmt: skip

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            self.answer(self.server.complete(body))
        elif self.path == "/pdbench/ready":
            self.answer({"counts": {"Prefill:m": 1, "Decode:m": 2}, "answered": self.server.ready, "requests": 2})
        else:
            assert self.path == "/pdbench/gates"
            self.server.gates.append(body)
            self.answer({})

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, make_manifest):
    monkeypatch.setattr(gates, "COUNTERS_TIMEOUT_S", 0.0)
    with FakeDeployment(make_manifest) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def saved(server, tmp_path):
    """Tokens of the collocated arm; then the server becomes a PD arm."""
    path = tmp_path / "tokens.json"
    asyncio.run(gates.save(server.url, path, seed=0))
    server.mode = "pd-spread"
    return path


def check(server, path):
    found = asyncio.run(gates.check(server.url, path))
    assert [gate["name"] for gate in server.gates] == [gate.name for gate in found], "each gate is recorded"
    return {gate.name: gate for gate in found}


def test_saved_prompts_have_all_lengths_and_differ(saved):
    content = json.loads(saved.read_text())
    lengths = [len(prompt) for prompt in content["prompts"]]
    assert lengths == sorted([1, 2, 15, 16, 17, 63, 128] * 3), "within the context, three of each"
    assert len({tuple(prompt) for prompt in content["prompts"] if len(prompt) > 1}) == 18
    assert {len(tokens) for tokens in content["tokens"]} == {NEW_TOKENS}
    assert (content["model"], content["checksum"]) == ("m", "abc")


def test_prompts_leave_room_for_the_continuation(server, tmp_path):
    server.context -= 1
    asyncio.run(gates.save(server.url, tmp_path / "tokens.json", seed=0))
    assert max(len(prompt) for prompt in json.loads((tmp_path / "tokens.json").read_text())["prompts"]) == 63


def test_an_equal_pd_arm_passes_every_gate(server, saved):
    found = check(server, saved)
    assert list(found) == ["token-equality", "kv-transfer", "transport"]
    assert all(gate.passed for gate in found.values())
    assert found["kv-transfer"].seen.startswith("21 transfers, ")
    assert found["kv-transfer"].expected == "at least 21 transfers, none failed or expired"
    assert found["transport"].seen == "tcp/lo"
    assert len(set(server.salts)) == len(server.salts) == 3 * 21, "no earlier request's prefix cache may answer"


def test_a_collocated_arm_is_only_compared(server, saved):
    server.mode = "collocated"
    assert list(check(server, saved)) == ["token-equality"]


def test_a_corrupted_cache_is_noticed(server, saved):
    server.corrupts = lambda prompt: len(prompt) == 128
    gate = check(server, saved)["token-equality"]
    assert not gate.passed and gate.seen.startswith("18 of 21 continuations equal, ")
    assert "prompt 18 (128 tokens) differs from token " in gate.seen


def test_a_recompute_that_says_the_same_is_no_transfer(server, saved):
    server.transfers = False
    found = check(server, saved)
    assert found["token-equality"].passed and not found["kv-transfer"].passed
    assert found["kv-transfer"].seen == "0 transfers, 0.0 MiB, 0 failed, 0 expired"


@pytest.mark.parametrize(("prefill", "decode", "each"), [(1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 4, 4), (4, 1, 1), (4, 2, 2)])
def test_each_rank_moves_its_part_of_a_kv_cache(make_manifest, prefill, decode, each):
    """The cache has two heads: of four ranks of P two hold the same."""
    deployment = make_manifest(f"p1xtp{prefill}-d1xtp{decode}", kv_cache={"heads": 2}).deployment
    assert gates.transfers_each(deployment) == each


def test_a_rank_that_recomputes_is_noticed(server, saved):
    """One transfer for each request where two ranks of D read: the other's KV cache came from elsewhere."""
    server.layout = "p1xtp1-d1xtp2"
    gate = check(server, saved)["kv-transfer"]
    assert not gate.passed and gate.expected.startswith("at least 42 transfers")


@pytest.mark.parametrize(("what", "seen"), [("failing", "1 failed, 0 expired"), ("expiring", "0 failed, 1 expired")])
def test_a_lost_transfer_is_noticed(server, saved, what, seen):
    server.salts.clear()
    setattr(server, what, 1)
    gate = check(server, saved)["kv-transfer"]
    assert not gate.passed and gate.seen.startswith("21 transfers") and gate.seen.endswith(seen)


@pytest.mark.parametrize(
    ("ucx_tls", "seen", "passed"),
    [
        ("tcp", ["tcp/lo"], True),
        ("tcp", ["cma/memory"], False),
        ("tcp", ["cma/memory", "tcp/lo"], False),
        ("tcp", [], False),
        (None, ["cma/memory"], True),
        (None, [], False),
        ("rc,cuda_ipc", ["rc_mlx5/mlx5_0:1", "cuda_ipc/cuda"], True),
        ("sm,self", ["cma/memory", "sysv/memory"], True),
        ("shm", ["tcp/lo"], False),
        ("all", ["tcp/lo", "cma/memory"], True),
        ("^tcp", ["cma/memory"], True),
        ("^tcp", ["tcp/lo"], False),
        ("^tcp,sm", ["cma/memory"], False),
        ("^tcp", [], False),
        ("ib", ["rc_mlx5/mlx5_0:1"], True),
        ("ib", ["tcp/lo"], False),
        ("rc_x", ["rc_mlx5/mlx5_0:1"], True),
        ("rc_x", ["rc_verbs/mlx5_0:1"], False),
        ("cuda", ["cuda_ipc/cuda"], True),
    ],
)
def test_the_transport_is_one_of_those_allowed(ucx_tls, seen, passed):
    gate = gates.transport_gate(seen, ucx_tls)
    assert (gate.name, gate.passed, gate.seen) == ("transport", passed, ", ".join(seen) or "none")


@pytest.mark.parametrize(("ucx_tls", "wanted"), [(None, None), ("srd,cuda_copy", None), (None, ["srd"]), ("^tcp", None)])
def test_rdma_by_name_that_is_emulated_in_fact_fails(ucx_tls, wanted):
    gate = gates.transport_gate(["srd/rdmap0:1 (software emulation)"], ucx_tls, wanted)
    assert not gate.passed and gate.seen == "srd/rdmap0:1 (software emulation)"
    assert gate.advice.startswith("srd by name, emulated in fact: ") and gate.expected.endswith(", reads by the card itself")
    assert gates.transport_gate(["srd/rdmap0:1 (zero-copy)"], ucx_tls, wanted).passed


@pytest.mark.parametrize("seen", [["tcp/lo (software emulation)"], ["cuda_ipc/cuda (zero-copy)", "cma/memory (zero-copy)"]])
def test_what_has_no_card_is_not_emulated(seen):
    assert gates.transport_gate(seen, None).passed


def test_libfabric_has_no_transport_of_ucx_to_see(server, saved):
    server.transport = {"backend": "LIBFABRIC", "ucx_tls": None}
    assert list(check(server, saved)) == ["token-equality", "kv-transfer"]


def test_another_model_is_not_compared(server, saved):
    server.checksum = "other"
    with pytest.raises(ServerError, match="tokens.json holds tokens of another model than the one that runs"):
        asyncio.run(gates.check(server.url, saved))
    assert server.gates == []


def test_a_model_that_says_the_same_to_all_proves_nothing(server, tmp_path):
    server.constant = True
    with pytest.raises(ServerError, match="do not depend on the prompt"):
        asyncio.run(gates.save(server.url, tmp_path / "tokens.json", seed=0))
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_tokens_change_with_the_batch_proves_nothing(server, tmp_path):
    server.corrupts = lambda prompt: len(server.salts) > 7 * 3  # those of the second time, all at once
    with pytest.raises(ServerError, match=r"rounding decides .*, 0\.0% of 168 leading tokens agree; at 21 divergences"):
        asyncio.run(gates.save(server.url, tmp_path / "tokens.json", seed=0))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_wavers_on_everything_is_not_compared(server, tmp_path):
    server.margin = MARGIN / 2
    with pytest.raises(ServerError, match=f"undecided on {MAX_DRAWS} prompts of 1 tokens"):
        asyncio.run(gates.save(server.url, tmp_path / "tokens.json", seed=0))
    assert list(tmp_path.iterdir()) == []


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["gates", *map(str, args)])
    status = gates.main()
    return status, capsys.readouterr()


def test_the_command_saves(server, tmp_path, monkeypatch, capsys):
    path = tmp_path / "tokens.json"
    status, said = run(monkeypatch, capsys, "--base-url", server.url, "--save", path, "--seed", 5)
    assert status == 0 and said.out == f"saved the greedy tokens of 21 prompts of layout p1xtp1-d1xtp1 to {path}\n"
    first = json.loads(path.read_text())["prompts"]
    run(monkeypatch, capsys, "--base-url", server.url, "--save", path, "--seed", 6)
    assert json.loads(path.read_text())["prompts"] != first
    run(monkeypatch, capsys, "--base-url", server.url, "--save", path, "--seed", 5)
    assert json.loads(path.read_text())["prompts"] == first, "the prompts are those of the seed"


def test_the_command_says_what_passed_and_exits_by_it(server, saved, monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "--base-url", server.url, "--against", saved)
    assert status == 0 and [line[:4] for line in said.out.splitlines()[-3:]] == ["ok  "] * 3
    server.transports = ["cma/memory"]
    status, said = run(monkeypatch, capsys, "--base-url", server.url, "--against", saved)
    assert status == 1
    reported, advice = said.out.splitlines()[-2:]
    assert reported == "FAIL transport: cma/memory (expected: within UCX_TLS=tcp)"
    assert advice == "     set --ucx-tls, and see what devices UCX finds: ucx_info -d"


def test_tokens_that_cannot_be_read_are_named(server, tmp_path, monkeypatch, capsys):
    path = tmp_path / "tokens.json"
    for content in (None, "{", "[" * 9999):
        if content:
            path.write_text(content)
        status, said = run(monkeypatch, capsys, "--base-url", server.url, "--against", path)
        assert status == 2 and said.err.count("\n") == 1 and said.err.startswith(f"gates: error: {path}: ")
    path.write_text("{}")
    status, said = run(monkeypatch, capsys, "--base-url", server.url, "--against", path)
    assert status == 2 and said.err.count("\n") == 1 and said.err.startswith("gates: error: ")


def test_a_dead_server_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"
    status, said = run(monkeypatch, capsys, "--base-url", url, "--save", tmp_path / "tokens.json")
    assert status == 2 and said.err.startswith(f"gates: error: no server answers at {url}: ")
    assert said.err.count("\n") == 1 and list(tmp_path.iterdir()) == []


# After a level and before the next.


@pytest.fixture
def after_level(server, saved):
    """The gates between two levels, and the prompt tokens of what was sent for them."""

    def check(tokens=saved):
        deployment = Deployment.model_validate(server.deployment())
        found, sent = level_gates.between(server.url, deployment, tokens)
        return {gate.name: gate for gate in found}, sent

    return check


def test_between_levels_every_replica_answers_and_tokens_are_equal(after_level):
    gates, sent = after_level()
    assert list(gates) == ["readiness", "token-equality"] and all(gate.passed for gate in gates.values())
    assert gates["readiness"].seen == "Prefill:m: p; Decode:m: d1, d2"
    # Saved are 3 of each of 1, 2, 15, 16, 17, 63 and 128 tokens, of which 4 are asked, after a request for each decode replica.
    assert sent == [20, 20, 1, 15, 17, 128]


def test_between_levels_a_replica_that_is_not_there_is_noticed(server, after_level):
    server.ready = {"Prefill:m": ["p"], "Decode:m": ["d1"]}
    assert not after_level(tokens=None)[0]["readiness"].passed


def test_between_levels_a_wrong_kv_cache_is_noticed(server, after_level):
    server.corrupts = lambda prompt: len(prompt) == 128
    gates, _ = after_level()
    assert not gates["token-equality"].passed and gates["token-equality"].seen.startswith("3 of 4 continuations equal, ")
