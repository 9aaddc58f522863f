"""The small client of checks and warm-up, against a small server."""

import asyncio
import random

import pytest

from pdbench.serve import client
from pdbench.serve.client import ServerError
from tests.helpers.sweeping import FakeServer, serving


@pytest.fixture
def server():
    with serving(FakeServer()) as server:
        yield server


def smoke(server, model=None):
    return asyncio.run(client.smoke(server.url, model, max_tokens=3, prompt_tokens=5))


def test_the_first_model_is_taken_where_none_is_named(server):
    model, done = smoke(server)
    assert model == "served" and done.text == "ab ab ab " and len(done.times) == 3
    assert done.ttft_ms > 0 and len(done.inter_token_ms) == 2 and min(done.inter_token_ms) >= 0
    assert len(server.requests[0]["prompt"]) == 5


@pytest.mark.parametrize("models", [{"data": []}, {}, [], {"data": [{}]}, {"data": None}])
def test_a_server_without_a_model_says_so(server, models):
    server.models = models
    with pytest.raises(ServerError, match="the server serves no model"):
        smoke(server)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "sent no tokens"),
        ([{"choices": [{"text": "a"}]}, {"error": "engine died"}], "answered with an error: engine died"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(server, events, words):
    server.events = events
    with pytest.raises(ServerError, match=words):
        smoke(server, "m")


def test_an_answer_other_than_200_is_reported(server):
    server.models = None
    with pytest.raises(ServerError, match=r'/v1/models answered 404: \{"error": "unknown"\}'):
        smoke(server)


def test_warm_up_sends_the_levels_shape_with_prompts_of_its_seed(server):
    load = client.Load(server.url, "m", isl=7, osl=2, in_flight=3, rng=random.Random(5))
    assert asyncio.run(client.warm_up(load)) == 3
    prompts = sorted(request["prompt"] for request in server.requests)
    rng = random.Random(5)
    assert prompts == sorted(client.random_prompt(rng, 7) for _ in range(3))
    assert {request["max_tokens"] for request in server.requests} == {2}


def test_staggered_requests_have_prompts_of_their_own_and_end_one_after_the_other(server):
    load = client.Load(server.url, "m", isl=7, osl=8, in_flight=4, rng=random.Random(5))
    assert asyncio.run(client.warm_up(load, staggered=True)) == 8
    assert sorted(request["max_tokens"] for request in server.requests) == [2, 4, 6, 8, 8, 8, 8, 8]
    assert len({tuple(request["prompt"]) for request in server.requests}) == 8
    server.requests.clear()
    load = client.Load(server.url, "m", isl=7, osl=2, in_flight=4, rng=load.rng)
    assert asyncio.run(client.warm_up(load, staggered=True)) == 8
    assert sorted(request["max_tokens"] for request in server.requests) == [1, 1, 2, 2, 2, 2, 2, 2], "at least one token"


def test_a_route_prefix_of_the_base_url_is_kept(server):
    server.prefix = "/llm"
    model, done = asyncio.run(client.smoke(f"{server.url}/llm", None, max_tokens=3, prompt_tokens=5))
    assert model == "served" and len(done.times) == 3
    assert asyncio.run(client.smoke(f"{server.url}/llm/", "m", max_tokens=3, prompt_tokens=5))[0] == "m"
    with pytest.raises(ServerError, match="answered 404"):
        smoke(server)
