"""What a result folder holds: spellings of levels, and a manifest of the right form."""

import json

import pytest

from pdbench.read import folder as read_folder
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results

GOOD, OTHER = "tiny_itl100_otl11_mixed_2xtp1", "tiny_itl100_otl11_mixed_4xtp1"


@pytest.fixture
def good(tmp_path, write_folder, level_content):
    return write_folder(tmp_path, GOOD, {"conc4.json": level_content(4)})


# -- spellings of the public study --


def test_a_level_measured_again_is_a_repeat(tmp_path, write_folder, level_content):
    content = level_content(concurrency=None, rate=9.0, duration=2.5)
    files = dict.fromkeys(("rr9.json", "rr9-1.json", "rr9-2.json"), content)
    table = read_results([write_folder(tmp_path, GOOD, files)])
    assert list(zip(table["level"], table["repeat"], strict=True)) == [(9, 1), (9, 2), (9, 3)]
    with pytest.raises(ResultError, match="rr9-1.json and rr9_rep2.json are the same level"):
        read_results([write_folder(tmp_path, OTHER, {"rr9-1.json": content, "rr9_rep2.json": content})])


@pytest.mark.parametrize("name", ["rr9-0.json", "rr9-01.json", "rr9-a.json", "rr9-1-1.json", "-1.json", "conc0-1.json"])
def test_what_only_looks_like_one_is_none(name):
    assert read_folder._level_of_name(name) is None


# -- manifests --


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"machines": []}, "deployment.machines is empty: it must say where engines ran"),
        ({"llm_configs": {"prefill": 3}}, "deployment.llm_configs.prefill must be an object, not 3"),
        (
            {"llm_configs": {"prefill": {"engine_kwargs": None}}},
            "llm_configs.prefill.engine_kwargs must be an object, not None",
        ),
        ({"llm_configs": {"prefill": {"runtime_env": {"env_vars": [1]}}}}, "env_vars must be an object, not .1."),
        ({"llm_configs": {"decode": {"experimental_configs": "x"}}}, "decode.experimental_configs must be an object, not 'x'"),
    ],
)
def test_a_manifest_of_another_form_is_refused(good, make_manifest, change, reason):
    manifest = json.loads(make_manifest("2xtp1", "collocated").model_dump_json())
    manifest["deployment"] |= change
    (good / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match=f"manifest.json: .*{reason}"):
        read_results([good])


def test_a_block_that_no_column_holds_is_refused(good, make_manifest, speed_record):
    manifest = make_manifest("2xtp1", "collocated")
    manifest.levels.append(speed_record("conc4", 1.0).model_copy(update={"block": 10**30}))
    manifest.write(good)
    with pytest.raises(ResultError, match="block above 1,000,000,000,000: no measurement has that"):
        read_results([good])


def test_what_a_manifest_may_leave_out_is_read(good, make_manifest):
    make_manifest("2xtp1", "collocated", llm_configs={"collocated": {"runtime_env": None}}).write(good)
    assert len(read_results([good])) == 1
