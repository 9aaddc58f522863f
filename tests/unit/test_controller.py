"""The loop that moves a pool's roles: its ticks, what it survives, and how it is asked for; the policy has tests of its own."""

import asyncio
import contextlib
import json
from functools import partial
from types import SimpleNamespace

import pytest

import launch_gptoss
from pdbench.manifest import planned_identity
from pdbench.ratio.policy import SUMS
from pdbench.serve import describe, pool, roles
from pdbench.serve.controller import Bounds, Controller
from pdbench.serve.pool import DECODE, PREFILL, Report

BOUNDS = Bounds(ttft_ms=1000, tpot_ms=50, tick_s=0.1)
IDLE = dict.fromkeys((*SUMS, "waiting", "to_come"), 0.0)


class Pool:
    """Three engines whose load a test sets; `broken` is raised instead of an answer, `deaf` ones keep their role."""

    def __init__(self):
        self.time, self.broken, self.deaf = 0.0, None, False
        self.found = {name: IDLE | {"role": role} for name, role in (("a", PREFILL), ("b", DECODE), ("c", DECODE))}

    async def reports(self):
        if self.broken:
            raise self.broken
        self.time += 1
        return [
            Report(replica_id=name, role=one["role"], running={PREFILL: 0, DECODE: 0}, ended={},
                   tokens={key: value for key, value in one.items() if key != "role"} | {"time_s": self.time})
            for name, one in self.found.items()
        ]  # fmt: skip

    async def set_roles(self, prefill):
        for name, one in self.found.items():
            one["role"] = one["role"] if self.deaf else PREFILL if name in prefill else DECODE
        return await self.reports()

    def roles(self):
        return "".join(one["role"][0] for one in self.found.values())


async def until(condition):
    """Wait for a condition; a slow machine takes its time, and the test's own limit ends it."""
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def engines():
    return Pool()


@pytest.fixture
def controller(engines):
    return Controller(BOUNDS, engines.reports, engines.set_roles)


def test_a_load_of_prompts_gives_another_engine_to_prefill(engines, controller):
    first = asyncio.run(controller.tick())
    assert (first.prefill, first.changed) == (1, {}) and engines.roles() == "pdd"
    engines.found["a"]["waiting"] = 200_000.0
    engines.found["c"]["to_come"] = 10.0
    tick = asyncio.run(controller.tick())
    assert (tick.prefill, tick.changed) == (2, {"b": PREFILL}) and engines.roles() == "ppd", "b has less to decode than c"
    assert "1 -> 2 prefill" in tick.reason and len(tick.reports) == 3


def test_a_table_that_did_not_arrive_is_handed_out_again(engines, controller):
    engines.found["a"]["waiting"], engines.deaf = 200_000.0, True
    assert asyncio.run(controller.tick()).changed == {"b": PREFILL} and engines.roles() == "pdd"
    engines.deaf = False
    again = asyncio.run(controller.tick())
    assert again.changed == {"b": PREFILL} and engines.roles() == "ppd"
    assert asyncio.run(controller.tick()).changed == {}


def test_a_tick_that_fails_says_why_and_the_loop_goes_on(engines, controller):
    async def run():
        controller.start()
        await until(lambda: controller.ticks)
        engines.broken = TimeoutError("no answer")
        await until(lambda: controller.ticks[-1].prefill is None)
        engines.broken = None
        await until(lambda: controller.ticks[-1].prefill == 1)
        assert controller.runs
        await controller.stop()
        assert not controller.runs

    asyncio.run(run())
    failed = next(tick for tick in controller.ticks if tick.prefill is None)
    assert (failed.reason, failed.changed, failed.reports) == ("TimeoutError: no answer", {}, [])


def test_a_stop_waits_for_the_table_that_is_being_handed_out(engines, controller):
    """Else a table of the user's that follows would be replaced by it."""
    handing, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(prefill):
        handing.set()
        await go_on.wait()
        return await engines.set_roles(prefill)

    async def run():
        engines.found["a"]["waiting"] = 200_000.0
        controller._set_roles = slowly
        controller.start()
        await handing.wait()
        stopping = asyncio.create_task(controller.stop())
        await asyncio.wait([stopping], timeout=0.05)
        assert not stopping.done() and engines.roles() == "pdd"
        go_on.set()
        await stopping
        assert engines.roles() == "ppd" and not controller.runs

    asyncio.run(run())


def test_ticks_are_given_since_a_time(controller):
    async def three():
        for _ in range(3):
            controller.ticks.append(await controller.tick())

    asyncio.run(three())
    account = controller.account(since=controller.ticks[1].unix)
    assert len(account["ticks"]) == 2 and account["bounds"] == BOUNDS.model_dump() and account["runs"] is False


@pytest.mark.parametrize(("text", "bounds"), [("ttft=1000,tpot=12", (1000, 12, 1)), ("tpot=5, ttft=9,tick=0.5", (9, 5, 0.5))])
def test_bounds_are_read(text, bounds):
    read = roles.bounds_of(text)
    assert (read.ttft_ms, read.tpot_ms, read.tick_s) == bounds


WRONG = ("on", "ttft=1000", "tpot=12", "ttft=0,tpot=12", "ttft=-1,tpot=12", "ttft=nan,tpot=12", "ttft=inf,tpot=1",
         "ttft=1,tpot=x", "ttft=1,ttft=2,tpot=3", "ttft=1,tpot=2,itl=3", "ttft=1,tpot=2,tick=0", "ttft=1,tpot=2,")  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_other_bounds_are_refused_in_one_line(monkeypatch, capsys, text):
    monkeypatch.setattr("sys.argv", ["launch_gptoss.py", "--control", text])
    assert launch_gptoss.main() == 2
    err = capsys.readouterr().err
    assert f"--control {text}: give both bounds" in err and err.count("\n") == 1


class Described:
    """Asks a Describe of a pool as its HTTP route would, in one event loop."""

    def __init__(self, monkeypatch, engines, mode="pd-pool"):
        async def ask_all(deployment, app, method, *args, timeout_s=60.0):
            found = await (engines.set_roles(*args) if method == "set_roles" else engines.reports())
            return [one.model_dump() for one in found]

        monkeypatch.setattr(pool, "ask_all", ask_all)
        config = {"deployment_config": {"num_replicas": 0}}
        record = {"layout": "p1xtp1-d2xtp1", "mode": mode, "model_id": "m", "gates": [],
                  "llm_configs": {PREFILL: dict(config), DECODE: dict(config)}}  # fmt: skip
        role = "pool" if mode == "pd-pool" else "decode"
        running = [{"role": role, "deployment": "PoolServer:m", "replica_id": name} for name in engines.found]
        self.described = describe.Describe(record, started=0.0, running=lambda: running, ask=None)
        self.described.nodes.run = lambda *_: []  # no engine has said how much its KV cache holds

    async def __call__(self, method, path, body=None, **query):
        async def content():
            return body

        url = SimpleNamespace(path=path)
        request = SimpleNamespace(method=method, url=url, json=content, query_params=query)
        return await self.described(request)


def test_a_controller_is_started_moves_the_layout_and_is_stopped(monkeypatch, engines):
    ask = Described(monkeypatch, engines)

    async def run():
        none = await ask("GET", "/pdbench/control")
        assert none.body == b"null"
        await ask("POST", "/pdbench/control", {"to": BOUNDS.model_dump()})
        engines.found["a"]["waiting"] = 200_000.0
        await until(lambda: ask.described.record["layout"] == "p2xtp1-d1xtp1")
        assert ask.described.record["controller"]["tpot_ms"] == 50
        assert ask.described.roles == {"a": PREFILL, "b": PREFILL, "c": DECODE}
        refused = await ask("POST", "/pdbench/roles", {"to": "p1xtp1-d2xtp1"})
        assert refused.status_code == 409 and b"a controller moves the roles: stop it with --control off" in refused.body
        await ask("POST", "/pdbench/control", {"to": None})
        assert ask.described.record["controller"] is None and not ask.described.controller.runs
        assert len(ask.described.controller.ticks) > 0, "what it did can still be asked for"
        moved = await ask("POST", "/pdbench/roles", {"to": "p1xtp1-d2xtp1"})
        assert moved.status_code == 200 and ask.described.record["layout"] == "p1xtp1-d2xtp1"

    asyncio.run(run())


def test_after_its_own_crash_it_learns_the_table_from_the_engines(monkeypatch, engines):
    """What was launched as p1-d2 prefills with two engines by now."""
    engines.found["b"]["role"] = PREFILL
    ask = Described(monkeypatch, engines)
    ask.described.running = partial(_running, ask.described.running)
    described = json.loads(asyncio.run(ask("GET", "/pdbench/deployment")).body)
    assert described["layout"] == "p2xtp1-d1xtp1" and "controller" not in described
    assert {one["replica_id"]: one["role"] for one in described["replicas"]} == {"a": PREFILL, "b": PREFILL, "c": DECODE}


def _running(replicas):
    return [one | {"node_id": "n", "node_ip": "127.0.0.3", "pid": 7} for one in replicas()]


def test_a_role_without_an_engine_leaves_the_layout(monkeypatch, engines):
    ask = Described(monkeypatch, engines)
    asyncio.run(ask("POST", "/pdbench/roles", {"to": "p2xtp1-d1xtp1"}))
    for one in engines.found.values():
        one["role"] = DECODE
    ask.described._note(asyncio.run(engines.reports()))
    assert ask.described.record["layout"] == "p2xtp1-d1xtp1"


def test_without_a_table_of_roles_there_is_nothing_to_control(monkeypatch, engines):
    ask = Described(monkeypatch, engines, mode="pd-pack")
    refused = asyncio.run(ask("POST", "/pdbench/control", {"to": BOUNDS.model_dump()}))
    assert refused.status_code == 409 and b"mode pd-pack has no table of roles" in refused.body


@pytest.mark.parametrize(
    ("text", "said"),
    [("ttft=1000,tpot=12", "a controller moves the roles every 1 s to keep TTFT 1000 ms, TPOT 12 ms; now p1-d2"),
     ("off", "no controller: p1-d2 stays")],
)  # fmt: skip
def test_what_runs_is_said(monkeypatch, engines, text, said):
    asked = []

    run_as(monkeypatch, engines, asked)
    assert roles.control("http://127.0.0.1:1", text) == said
    assert (asked[0] is None) == (text == "off")


def run_as(monkeypatch, engines, asked, mode="pd-pool"):
    """What runs at the base URL; `asked` takes the bounds that it is given."""

    class Running:
        async def deployment(self):
            return SimpleNamespace(mode=mode)

        async def control(self, bounds):
            asked.append(bounds)
            return await engines.reports()

    @contextlib.asynccontextmanager
    async def deployed(url):
        yield Running()

    monkeypatch.setattr(roles, "deployed", deployed)


def test_another_mode_is_a_mistake(monkeypatch, engines, capsys):
    run_as(monkeypatch, engines, [], mode="pd-pack")
    monkeypatch.setattr("sys.argv", ["launch_gptoss.py", "--control", "off"])
    assert launch_gptoss.main() == 2
    said = "launch_gptoss.py: error: --control: mode pd-pack has no table of roles; launch with --pd-pool\n"
    assert capsys.readouterr().err == said


def test_under_a_controller_the_layout_of_the_moment_is_no_identity():
    record = {"layout": "p1xtp1-d2xtp1", "mode": "pd-pool", "gpus": 3, "model_id": "m", "decode_bench": False,
              "transport": None, "serving_path": None, "llm_configs": {}}  # fmt: skip
    moved = record | {"layout": "p2xtp1-d1xtp1"}
    assert planned_identity(record) != planned_identity(moved)
    bounds = {"controller": BOUNDS.model_dump()}
    assert planned_identity(record | bounds) == planned_identity(moved | bounds) != planned_identity(record)
