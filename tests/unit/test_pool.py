"""A pool of equal engines: who prefills, how its router chooses, how roles are changed; real engines are in the e2e tests."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from pdbench.layout import Layout
from pdbench.measure.level_gates import Asked, Snapshot, judge
from pdbench.serve import describe, pool, roles, serve_app
from pdbench.serve.pool import DECODE, PREFILL, Report, assign


def report(replica_id, role=DECODE, prefill=0, decode=0, ended=(0, 0)):
    return Report(replica_id=replica_id, role=role, running={PREFILL: prefill, DECODE: decode},
                  ended=dict(zip((PREFILL, DECODE), ended, strict=True)))  # fmt: skip


def test_who_prefills_stays_and_who_has_the_least_to_decode_joins():
    found = [report("a", PREFILL, decode=9), report("b", decode=3), report("c", decode=1), report("d", decode=2)]
    assert assign(found, Layout.parse("p1xtp1-d3xtp1")) == ["a"]
    assert assign(found, Layout.parse("p2xtp1-d2xtp1")) == ["a", "c"]
    assert assign(found, Layout.parse("p3xtp1-d1xtp1")) == ["a", "c", "d"]


def test_of_those_that_prefill_the_one_with_the_least_work_turns_to_decode():
    found = [report("a", PREFILL, prefill=1), report("b", PREFILL, prefill=4), report("c")]
    assert assign(found, Layout.parse("p1xtp1-d2xtp1")) == ["b"]


@pytest.mark.parametrize("layout", ["p1xtp1-d1xtp1", "p2xtp1-d2xtp1", "3xtp1"])
def test_a_layout_of_another_number_of_engines_is_refused(layout):
    with pytest.raises(ValueError, match=f"the pool has 3 engines, which is not {layout}"):
        assign([report("a"), report("b"), report("c")], Layout.parse(layout))


class FakePool:
    """Replicas as `pool.ask_all` meets them; requests follow the table after `lag` answers, or never."""

    def __init__(self, names, lag=0):
        self.found, self.lag, self.late = {name: report(name) for name in names}, lag, lag

    async def ask_all(self, deployment, app, method, *args, timeout_s=60.0):
        assert (deployment, app) == ("PoolServer:m", "pdbench")
        if method == "set_roles":
            self.late = self.lag
            for name, one in self.found.items():
                one.role = PREFILL if name in args[0] else DECODE
        if method == "answer":
            prefill = [one for one in self.found.values() if one.role == PREFILL]
            for one in self.found.values():
                if one.role == DECODE and self.late <= 0:
                    prefill[0].ended[PREFILL] += 1
            self.late -= 1
            return [(name, one.role, self.said(name)) for name, one in self.found.items()]
        return [one.model_dump() for one in self.found.values()]

    @staticmethod
    def said(name):
        return "data: [DONE]"


def fake(monkeypatch, *names, lag=0):
    made = FakePool(names, lag)
    monkeypatch.setattr(pool, "ask_all", made.ask_all)
    monkeypatch.setattr(pool, "REPORTS_S", 0.0)
    return made


def test_every_two_replicas_meet(monkeypatch):
    made = fake(monkeypatch, "a", "b", "c", lag=3)
    asyncio.run(pool.meet("PoolServer:m", "pdbench", {}))
    assert [one.ended[PREFILL] for one in made.found.values()] == [2, 2, 2], "each was read by both others"


def test_a_table_that_nobody_follows_is_noticed(monkeypatch):
    fake(monkeypatch, "a", "b", lag=1000)
    with pytest.raises(RuntimeError, match="requests of PoolServer:m do not follow its table of roles"):
        asyncio.run(pool.meet("PoolServer:m", "pdbench", {}))


def test_every_replica_answers_in_its_role_or_its_error_is_passed_on(monkeypatch):
    made = fake(monkeypatch, "b", "a", "c")
    made.found["c"].role = PREFILL
    assert asyncio.run(pool.answer("PoolServer:m", "pdbench", {})) == {PREFILL: ["c"], DECODE: ["a", "b"]}
    made.said = lambda name: "no room" if name == "a" else "[DONE]"
    with pytest.raises(RuntimeError, match="replica a of PoolServer:m: no room"):
        asyncio.run(pool.answer("PoolServer:m", "pdbench", {}))


def test_a_replica_of_a_pool_that_does_not_answer_is_named(monkeypatch):
    made = fake(monkeypatch, "a", "b", "c")
    made.found["c"].role = PREFILL
    running = [{"role": "pool", "deployment": "PoolServer:m", "replica_id": name} for name in ("a", "b", "c")]
    monkeypatch.setattr(serve_app, "replicas", lambda: running)
    both = {PREFILL: ["c"], DECODE: ["a", "b"]}
    assert asyncio.run(serve_app.ask("m")) == ({PREFILL: 1, DECODE: 2}, both)
    del made.found["b"]
    with pytest.raises(RuntimeError, match="replicas of PoolServer:m that did not answer: b"):
        asyncio.run(serve_app.ask("m"))


def test_a_pool_is_found_by_its_name():
    assert serve_app.role_of("PoolServer:m") == "pool"
    replicas = [{"role": "ingress", "deployment": "OpenAiIngress"}, {"role": "pool", "deployment": "PoolServer:m"}]
    assert pool.pool_of(replicas) == "PoolServer:m" and pool.pool_of(replicas[:1]) is None


class Id(NamedTuple):
    unique_id: str


class TestRouter:
    @pytest.fixture
    def router(self):
        from pdbench.serve.pool_router import RoleRouter

        made = object.__new__(RoleRouter)
        made.initialize_state()
        return made

    @staticmethod
    def replica(name, role, at=1.0, **running):
        stats = {"role": role, "at": at, PREFILL: 0, DECODE: 0, **running} if role else {}
        return SimpleNamespace(replica_id=Id(name), routing_stats=stats)

    @staticmethod
    def request(work, of=""):
        given = {"do_remote_decode": True} if work == PREFILL else None
        named = SimpleNamespace(internal_request_id=of)
        return SimpleNamespace(
            args=[SimpleNamespace(kv_transfer_params=given)], routing_context=SimpleNamespace(), metadata=named
        )

    def chosen(self, router, replicas, work):
        ranked = asyncio.run(router.choose_replicas(replicas, self.request(work)))
        return [one.replica_id.unique_id for (one,) in ranked]

    def test_a_request_goes_to_the_replicas_with_its_role_and_the_least_work_first(self, router):
        some = [self.replica("a", DECODE, decode=5), self.replica("b", PREFILL, decode=9), self.replica("c", DECODE, decode=2),
                self.replica("d", PREFILL, prefill=1)]  # fmt: skip
        assert self.chosen(router, some, PREFILL) == ["b", "d"], "decodes of an earlier role are no prefill work"
        assert self.chosen(router, some, DECODE) == ["c", "a"]

    def test_its_own_requests_count_first_since_reports_are_old(self, router):
        """By reports alone every router sends to the same replica until the next one."""
        a, c = self.replica("a", DECODE, decode=5), self.replica("c", DECODE, decode=0)
        assert self.chosen(router, [a, c], DECODE) == ["c", "a"]
        router.on_request_routed(self.request(DECODE, "1"), c.replica_id, None)
        assert self.chosen(router, [a, c], DECODE) == ["a", "c"]
        router.on_request_routed(self.request(DECODE, "2"), a.replica_id, None)
        assert self.chosen(router, [a, c], DECODE) == ["c", "a"], "one each: by the reports"
        assert self.chosen(router, [self.replica("a", PREFILL), self.replica("c", PREFILL, prefill=1)], PREFILL) == ["a", "c"]
        router.on_request_completed(c.replica_id, "1")
        router.on_request_completed(c.replica_id, "never routed")
        router.on_request_routed(self.request(DECODE, "3"), c.replica_id, None)
        router.on_request_completed(a.replica_id, "2")
        assert self.chosen(router, [a, c], DECODE) == ["a", "c"]

    def test_without_roles_all_are_taken_but_never_the_one_that_asks(self, router):
        some = [self.replica("a", ""), self.replica("b", "")]
        assert sorted(self.chosen(router, some, DECODE)) == ["a", "b"]
        router.here = "a"
        assert self.chosen(router, some, PREFILL) == ["b"]
        old = [self.replica("a", PREFILL), self.replica("b", DECODE)]
        assert self.chosen(router, old, PREFILL) == ["b"], "by an old table it would compute its own prompt"


def test_the_layout_follows_the_table_and_a_new_replica_takes_the_role_of_one_that_is_gone(monkeypatch):
    made = fake(monkeypatch, "a", "b", "c")
    replica = {"role": "pool", "deployment": "PoolServer:m", "node_id": "n", "node_ip": "127.0.0.3", "pid": 7}
    config = {"deployment_config": {"num_replicas": 0}}
    record = {"layout": "p1xtp1-d2xtp1", "mode": "pd-pool", "model_id": "m", "gates": [],
              "llm_configs": {PREFILL: dict(config), DECODE: {"deployment_config": {"num_replicas": 0}}}}  # fmt: skip
    described = describe.Describe(
        record, started=0.0, running=lambda: [replica | {"replica_id": name} for name in made.found], ask=None
    )

    def ask(method, path, body=None):
        async def content():
            return body

        answer = asyncio.run(described(SimpleNamespace(method=method, url=SimpleNamespace(path=path), json=content)))
        return answer.body.decode()

    ask("POST", "/pdbench/roles", {"to": "p2xtp1-d1xtp1"})
    assert described.record["layout"] == "p2xtp1-d1xtp1" and described.roles == {"a": PREFILL, "b": PREFILL, "c": DECODE}
    assert record["llm_configs"][PREFILL]["deployment_config"]["num_replicas"] == 2
    assert [one["role"] for one in described._replicas()] == [PREFILL, PREFILL, DECODE]
    del made.found["a"]
    made.found["new"] = report("new")
    ask("GET", "/pdbench/roles")
    assert sorted(described.roles.values()) == [DECODE, PREFILL, PREFILL] and described.roles["b"] == PREFILL
    assert set(described.roles) == {"b", "c", "new"}


def deployment(**more):
    return SimpleNamespace(**{"mode": "pd-pool", "layout": "p1xtp2-d2xtp2", "gpus": 6, "model_id": "m"} | more,
                           takes_requests=lambda url: url)  # fmt: skip


def test_a_ratio_becomes_a_layout():
    assert str(roles.new_layout(deployment(), "p2-d1")) == "p2xtp2-d1xtp2"


@pytest.mark.parametrize(
    ("ratio", "more", "why"),
    [
        ("2:1", {}, "--roles 2:1: write p2-d1"),
        ("p0-d3", {}, "--roles p0-d3: write p2-d1"),
        ("p2-d2", {}, "--roles p2-d2: the pool has 3 engines, so p1-d2 to p2-d1"),
        ("p2-d1", {"mode": "pd-pack"}, "mode pd-pack has no table of roles; launch with --pd-pool"),
    ],
)
def test_a_ratio_that_cannot_be_is_refused(ratio, more, why):
    with pytest.raises(ValueError, match=why):
        roles.new_layout(deployment(**more), ratio)


class Running:
    """A pool as `/pdbench/*` shows it: with `follows`, each request ends at every replica, in its role."""

    def __init__(self, follows):
        self.follows, self.found = follows, [report("a", PREFILL), report("b"), report("c")]

    async def deployment(self):
        return deployment()

    async def roles(self):
        if self.follows:
            for one in self.found:
                one.ended[one.role] += 1
        return [one.model_copy(deep=True) for one in self.found]

    async def set_roles(self, layout):
        chosen = assign(self.found, layout)
        for one in self.found:
            one.role = PREFILL if one.replica_id in chosen else DECODE
        return [one.model_copy(deep=True) for one in self.found]


def change(monkeypatch, running, ratio):
    @contextlib.asynccontextmanager
    async def opened(*args):
        yield running

    async def answered(*args):
        return {}

    monkeypatch.setattr(roles, "deployed", opened)
    monkeypatch.setattr(roles, "session", opened)
    monkeypatch.setattr(roles, "post", answered)
    monkeypatch.setattr(roles, "FOLLOWED_S", 0.0)
    monkeypatch.setattr(roles, "REPORTS_S", 0.0)
    return roles.change("http://127.0.0.1:1", ratio)


def test_a_change_is_reported_when_each_engine_has_followed(monkeypatch):
    first, second = change(monkeypatch, Running(follows=True), "p2-d1")
    assert first.startswith("layout p1xtp2-d2xtp2 -> p2xtp2-d1xtp2: table changed in ")
    assert second.startswith("b: decode -> prefill; its first request there ended after ")
    assert change(monkeypatch, Running(follows=True), "p1-d2") == ["layout p1xtp2-d2xtp2: nothing to change"]


def test_a_switch_that_does_nothing_fails(monkeypatch):
    with pytest.raises(TimeoutError, match="b: no request ended in the new role"):
        change(monkeypatch, Running(follows=False), "p2-d1")


@pytest.mark.parametrize(
    ("ended", "seen"),
    [
        ([(7, 0), (0, 7)], "5 requests were prefilled and 5 decoded, each by its role"),
        (
            [(6, 1), (1, 6)],
            "p, which is to prefill, took 1 requests to decode; d, which is to decode, took 1 requests to pre",
        ),
        ([(2, 0), (0, 7)], "no engine took a request to prefill"),
    ],
)
def test_a_level_in_which_engines_did_not_keep_to_their_roles_does_not_count(make_manifest, ended, seen):
    begun = [report("p", PREFILL, ended=(2, 0)), report("d", ended=(0, 2))]
    done = [report(one.replica_id, one.role, ended=of) for one, of in zip(begun, ended, strict=True)]
    before, after = (Snapshot(counters={}, replicas={}, pool=some) for some in (begun, done))
    launched = make_manifest("p1xtp1-d1xtp1").deployment.model_copy(update={"mode": "pd-pool"})
    gates = {gate.name: gate for gate in judge(before, after, launched, Asked(requests=5, isl=10), None)}
    assert gates["roles"].seen.startswith(seen) and gates["roles"].passed == (seen[0] == "5")
