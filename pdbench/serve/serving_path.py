"""Choose a request's path through Ray Serve to an engine: proxy, ingress, router. What runs there affects every arm.

HAProxy -> ingress -> engine's replica        the default
HAProxy -> engine's replica                   --direct-streaming: https://docs.ray.io/en/master/serve/llm/
proxy in Python -> ingress -> replica         without HAProxy, as up to Ray 2.55
"""

import csv
import io
import os
import re
import urllib.request
from typing import Any, Literal

from packaging.version import Version
from pydantic import Field, ValidationError

from pdbench.configs import LLMOptions, ServeConfig, explain
from pdbench.manifest import REMEMBERS, Gate, Strict, now

HAPROXY = "HAProxy"
HA_PROXY, DIRECT_STREAMING = "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"
# Older ones lack HAProxy, or had it on trial.
SINCE_RAY = Version("2.56")
LOOPBACK, EVERY_ADDRESS = ("127.0.0.1", "localhost"), ("0.0.0.0", "::")
Router = Literal["power-of-two", "round-robin"]
# Of several replicas, who takes the next request; the first is Ray's default without direct streaming. Ray's router by prefix
# is left out: no two prompts of a level share one, and with token ids as a prompt, as the gates send them, it waits for ever
# (2.60 takes them for an empty text, and divides by its length).
ROUTERS: dict[Router, dict[str, str]] = {
    "power-of-two": {},
    "round-robin": {"request_router_class": "ray.serve.experimental.round_robin_router:RoundRobinRouter"},
}
# Ray names this option so while it is on trial.
PREWARM = "_prewarm_prefill_decode"
STATS_PORT = "RAY_SERVE_HAPROXY_STATS_PORT"
DEFAULT_PORTS = {STATS_PORT: 8404, "RAY_SERVE_HAPROXY_METRICS_PORT": 9101}
FALLBACK = "SERVE_PROXY_ACTOR-fallback"
# HAProxy 2.8 does not start where the hard limit of open files has fewer than 2.5 for each connection (one to the client, one
# to the replica, and a pipe for every fourth, since Ray's configuration splices), and 36 for itself. Health checks take more.
CONNECTIONS, OTHER_FILES = "RAY_SERVE_HAPROXY_MAXCONN", 256
DEFAULT_CONNECTIONS = 4096  # Ray's, where neither configs/serve.yaml nor the user says
# A request in flight takes one, and those beyond the limit wait unseen: twice the highest level of the study.
LEAST_CONNECTIONS = 128


class ServingPath(Strict):
    """How requests reach the engines of an arm."""

    env: dict[str, str] = Field(default={}, description="environment of all of Ray Serve's processes")
    direct_streaming: bool = False
    router: Router = "power-of-two"
    llm: LLMOptions = LLMOptions()

    @property
    def has_haproxy(self) -> bool:
        return self.env.get(HA_PROXY) == "1"

    @property
    def connections(self) -> int:
        """How many HAProxy takes at once."""
        return int(self.env.get(CONNECTIONS, DEFAULT_CONNECTIONS))

    @property
    def router_options(self) -> dict[str, Any]:
        """Of an engine deployment. Ray's default changes with direct streaming: arms compare if the router is named then."""
        config = ROUTERS[self.router]
        return {"request_router_config": config} if config or self.direct_streaming else {}

    @property
    def llm_options(self) -> dict[str, Any]:
        """`experimental_configs` of an LLMConfig."""
        options = self.llm.model_dump()
        options[PREWARM] = options.pop("prewarm_prefill_decode")
        return options


def choose(
    serve: ServeConfig, given: dict[str, str], llm: dict[str, str], direct_streaming: bool, router: str, ray: Version
) -> ServingPath:
    """Choose the path that a launch asks for.

    Args:
        given: of --serve-env, instead of what `serve` has.
        llm: of --llm-option, in the same form.
        ray: the installed version; an older one than 2.56 gets nothing that is not given, and does not know all of it.

    Raises:
        ValueError: what is asked for needs something that is missing.
    """
    env = (serve.env if ray >= SINCE_RAY else {}) | given
    if wrong := next((name for name in given if not name.startswith(("RAY_SERVE_", "RAYLLM_"))), None):
        raise ValueError(f"--serve-env {wrong}: only RAY_SERVE_* and RAYLLM_* are read by Ray Serve; --env is for the engines")
    if DIRECT_STREAMING in given:
        raise ValueError(f"--serve-env {DIRECT_STREAMING}: use --direct-streaming")
    if wrong := next((name for name in DEFAULT_PORTS if not env.get(name, "1").isdecimal()), None):
        raise ValueError(f"--serve-env {wrong}={env[wrong]}: not a port")
    if not re.fullmatch(r"\d+(\.\d+)?", env.get(REMEMBERS, "0")):
        raise ValueError(f"--serve-env {REMEMBERS}={env[REMEMBERS]}: not a number of seconds, such as 0")
    if not re.fullmatch(r"[1-9]\d{0,6}", env.get(CONNECTIONS, "1")):
        raise ValueError(f"--serve-env {CONNECTIONS}={env[CONNECTIONS]}: not a number of connections, from 1 to 9999999")
    if direct_streaming:
        if ray < SINCE_RAY:
            raise ValueError(f"--direct-streaming needs Ray >= 2.56, this is {ray}")
        env |= {DIRECT_STREAMING: "1"}
    path = ServingPath(env=env, direct_streaming=direct_streaming, router=router, llm=_read(serve.llm, llm, ray))
    if direct_streaming and not path.has_haproxy:
        raise ValueError(f"--direct-streaming needs HAProxy: leave {HA_PROXY}=0 out")
    return path


def _read(default: LLMOptions, given: dict[str, str], ray: Version) -> LLMOptions:
    known = LLMOptions.model_fields if ray >= SINCE_RAY else ["stream_batching_interval_ms"]
    if wrong := next((name for name in given if name not in known), None):
        raise ValueError(f"--llm-option {wrong}: Ray {ray} knows {', '.join(known)}")
    try:
        return LLMOptions.model_validate(default.model_dump(include=set(known)) | given)
    except ValidationError as error:
        raise ValueError(f"--llm-option {explain(error, LLMOptions)}") from None


def files_for(connections: int) -> int:
    """Return the hard limit of open files that HAProxy needs for `connections`."""
    return connections * 5 // 2 + OTHER_FILES


def fit_connections(path: ServingPath, is_given: bool, limit: int | None) -> ServingPath:
    """Return the path with as many connections to HAProxy as its node allows, where that is fewer than it has.

    Args:
        is_given: whether the user named the number, which is then not changed.
        limit: hard limit of open files where HAProxy runs; None if there is none.

    Raises:
        ValueError: the user's number does not fit.
    """
    if not path.has_haproxy or limit is None or files_for(path.connections) <= limit:
        return path
    fitting = max(1, (limit - OTHER_FILES) * 2 // 5)
    if is_given:
        needed = files_for(path.connections)
        raise ValueError(f"--serve-env {CONNECTIONS}={path.connections} needs {needed} open files, the head's hard limit is "
                         f"{limit}: give at most {fitting}, or start Ray after a higher ulimit -n")  # fmt: skip
    return path.model_copy(update={"env": path.env | {CONNECTIONS: str(fitting)}})


def check_load(recorded: dict[str, Any] | None, in_flight: float) -> None:
    """Refuse a level of more requests at once than HAProxy takes: the others would wait before it, where nobody sees them.

    Args:
        recorded: `serving_path` of the deployment, None for a control arm.

    Raises:
        ValueError: says how many it takes, and what raises that.
    """
    path = ServingPath.model_validate({"env": recorded["env"]}) if recorded else ServingPath()
    if path.has_haproxy and in_flight > path.connections:
        raise ValueError(f"{in_flight:g} requests in flight, but HAProxy takes {path.connections} connections at once: launch "
                         f"with --serve-env {CONNECTIONS}={in_flight:g}, or start Ray after a higher ulimit -n")  # fmt: skip


def check_host(path: ServingPath, host: str, has_remote: bool) -> None:
    """Refuse an address at which HAProxy would not find the replicas, and take requests to a slower proxy instead.

    Replicas that it serves bind the address that it binds itself, and it looks for those on its own node at 127.0.0.1.

    Args:
        has_remote: whether replicas that it serves are on other nodes than the head.

    Raises:
        ValueError: names the addresses that do.
    """
    if not path.has_haproxy or host in EVERY_ADDRESS:
        return
    if path.direct_streaming and has_remote:
        raise ValueError(
            f"--direct-streaming to engines on other nodes needs --host 0.0.0.0: they bind it too, {host} is not theirs"
        )
    if host not in LOOPBACK:
        raise ValueError(f"--host {host} does not go with HAProxy, which looks for its replicas at 127.0.0.1: give 127.0.0.1 "
                         f"or 0.0.0.0, or launch with --serve-env {HA_PROXY}=0")  # fmt: skip


def ports(path: ServingPath, host: str, port: int) -> list[tuple[str, dict[str, Any]]]:
    """Return what servers of the head listen at, each address with the fields of a `doctor.facts.Port`.

    HAProxy's own two are bound on every address, by Ray's template.
    """
    found = [(host, {"number": port})]
    if path.has_haproxy:
        for name, default in DEFAULT_PORTS.items():
            needed = {"number": int(path.env.get(name, default)), "server": HAPROXY, "option": f"--serve-env {name}=N"}
            found.append(("0.0.0.0", needed))
    return found


def haproxy_servers() -> list[dict[str, Any]]:
    """List the servers behind the HAProxy of this node, by its own statistics: name, its app, whether up, requests taken.

    The format: https://docs.haproxy.org/2.8/management.html#9.1.

    Raises:
        OSError: no HAProxy answers.
    """
    port = os.environ.get(STATS_PORT, DEFAULT_PORTS[STATS_PORT])
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says on this node
    with directly.open(f"http://127.0.0.1:{port}/stats;csv", timeout=5) as answer:
        text = answer.read().decode().removeprefix("# ")
    rows = csv.DictReader(io.StringIO(text))
    return [
        {"name": row["svname"], "app": row["pxname"].removeprefix("http-"), "up": row["status"].startswith("UP"),
         "requests": int(row["stot"] or 0)}
        for row in rows if row["svname"].startswith("SERVE_")
    ]  # fmt: skip


def haproxy_gate(servers: list[dict[str, Any]], app: str, count: int) -> Gate:
    """Return gate `haproxy`: whether it sends requests to all of the app's replicas that take them.

    Args:
        servers: of `haproxy_servers`.
        count: replicas of the ingress or, with direct streaming, of collocated or decode engines.
    """
    up = sorted(server["name"] for server in servers if server["app"] == app and server["up"]
                and not server["name"].startswith(FALLBACK))  # fmt: skip
    return Gate(
        name="haproxy", passed=len(up) == count, seen=f"{len(up)} up: {', '.join(up) or 'none'}", time=now(),
        expected=f"{count} replicas up", advice="else requests go through a slower proxy in Python: see HAProxy's /stats",
    )  # fmt: skip
