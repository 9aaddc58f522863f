"""How many tokens an engine's KV cache holds, by what vLLM logs."""

import pytest

from pdbench.serve.kv_tokens import by_role, least

LINES = [
    "(EngineCore pid=70) INFO 11-28 06:12:40 [kv_cache_utils.py:2033] GPU KV cache size: 523,648 tokens",
    "\x1b[36m(EngineCore_DP0 pid=71)\x1b[0;0m INFO 11-28 [kv_cache_utils.py:1087] GPU KV cache size: 96 tokens, block_size=16",
    "(EngineCore pid=72) INFO 11-28 06:12:40 [core.py:1] init engine (profile, create kv cache, warmup model) took 6 s",
]


@pytest.mark.parametrize(("pids", "tokens"), [([70], 523_648), ([7, 71], 96), ([70, 71], 96), ([72], None), ([], None)])
def test_the_line_of_an_engines_own_processes_counts(pids, tokens):
    assert least(LINES, pids) == tokens


def engine(name, role):
    return {"replica_id": name, "role": role}


def test_a_role_has_what_its_smallest_engine_holds_once_all_have_said_it():
    engines = [engine("p", "prefill"), engine("d1", "decode"), engine("d2", "decode")]
    assert by_role(engines, [{"p": 900}, {"d1": 700, "d2": 650}]) == {"decode": 650, "prefill": 900}
    assert by_role(engines, [{"p": 900}, {"d1": 700}, {}]) == {}
