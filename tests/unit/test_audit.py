"""The audit: each finding planted once and seen once, and nothing seen where nothing is wrong."""

import json

import pytest

from pdbench.analysis.audit import audit, refuted
from pdbench.manifest import Gate, LevelRecord
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_study
from tests.helpers.audits import LEVELS, MIXED, found, seen, writer


@pytest.fixture
def arm(tmp_path, write_folder, level_content):
    return writer(tmp_path, write_folder, level_content)


def test_nothing_is_found_where_nothing_is_wrong(arm):
    assert found(arm("2xtp1"), arm("1xtp2")) == []


def test_a_folder_that_cannot_be_read_is_an_error(arm, tmp_path):
    with pytest.raises(ResultError, match="no such folder"):
        audit(read_study([arm("2xtp1"), tmp_path / f"{MIXED}1xtp1"], details=False))


# -- one measurement under several names --


def copied(folder, name, spaced=False):
    """A copy of a folder's levels under another name; `spaced` writes the same content in other bytes."""
    other = folder.parent / f"{MIXED}{name}"
    other.mkdir()
    for path in folder.glob("conc*.json"):
        text = path.read_text()
        (other / path.name).write_text(json.dumps(json.loads(text), indent=1) if spaced else text)
    return other


@pytest.mark.parametrize("spaced", [False, True])
def test_copies_under_another_name_are_one_measurement(arm, spaced):
    first = arm("baseline_2xtp1")
    second = copied(first, "again_2xtp1", spaced)
    assert found(first, second, arm("1xtp2")) == [("same results", [first.name, second.name])]
    reported = "conc4, conc8 and conc16 are the same measurement, called baseline_2xtp1 and again_2xtp1"
    assert seen("same results", first, second) == reported


def test_copies_under_two_layouts_put_both_in_doubt_and_another_run_tells_which(arm):
    """The other run's TPOT is 15 ms where the copies have 10: 1.5 times, so it is no run of their layout."""
    first = arm("p2xtp1-d2xtp1", manifest=None)
    second = copied(first, "p2xtp1-d1xtp1")
    other = arm("true_p2xtp1-d1xtp1", median_tpot_ms=15.0)
    kinds = [kind for kind, _ in found(first, second, other)]
    assert kinds[0] == "two layouts" and "same results" not in kinds
    reported = seen("two layouts", first, second, other)
    assert "called p2xtp1-d2xtp1 (4 GPUs) and p2xtp1-d1xtp1 (3 GPUs)" in reported
    assert f"another run of p2xtp1-d1xtp1, {other.name}, has 1.50 to 1.50 times their median TPOT" in reported


def test_a_repeat_that_is_a_copy(arm):
    folder = arm("2xtp1")
    (folder / "conc8_rep2.json").write_text((folder / "conc8.json").read_text())
    assert seen("same results", folder) == "conc8 and conc8_rep2 are the same measurement, called 2xtp1"


# -- names and layouts --


def test_the_name_against_the_manifest(arm, make_manifest):
    folder = arm("p2xtp1-d1xtp2", manifest=make_manifest("p2xtp1-d2xtp2", gpus=6))
    reported = "the name says p2xtp1-d1xtp2 (4 GPUs), the manifest p2xtp1-d2xtp2 (6 GPUs)"
    assert seen("name and manifest", folder) == reported


def test_a_name_without_layout_contradicts_nothing(arm, make_manifest):
    folder = arm("first-try", manifest=make_manifest("2xtp2", "collocated"))
    assert found(folder) == []


def test_decode_that_is_out_of_line(arm):
    """With 2 prefill replicas TPOT is half of that with 1 and with 3: the decode pool was another one."""
    one, two, three = (arm(f"p{n}xtp1-d1xtp1", median_tpot_ms=tpot) for n, tpot in ((1, 20.0), (2, 10.0), (3, 21.0)))
    assert seen("odd decode", one, two, three).endswith(
        "4: 10.0 against 20.0 to 21.0, 8: 10.0 against 20.0 to 21.0, 16: 10.0 against 20.0 to 21.0"
    )
    assert ("odd decode", [two.name]) in found(one, two, three)


@pytest.mark.parametrize("tpots", [(20.0, 17.0, 21.0), (20.0, 24.0, 21.0), (10.0, 15.0, 20.0)])
def test_decode_within_a_fifth_of_its_neighbours_is_in_line(arm, tpots):
    folders = [arm(f"p{n}xtp1-d1xtp1", median_tpot_ms=tpot) for n, tpot in zip((1, 2, 3), tpots, strict=True)]
    assert "odd decode" not in [kind for kind, _ in found(*folders)]


@pytest.mark.parametrize(
    ("folder", "phase", "decode_bench", "kind"),
    [
        ("decode-only_2xtp1", "decode-only", False, "short context"),
        ("decode-only_2xtp1", "decode-only", True, None),
        ("mixed_2xtp1", "mixed", True, "prompts not computed"),
        ("mixed_2xtp1", "mixed", False, None),
        ("mixed_decode-only_2xtp1", "mixed", False, "short context"),
    ],
)
def test_the_phase_against_what_the_deployment_does_with_prompts(
    tmp_path, write_folder, level_content, lawful, make_manifest, folder, phase, decode_bench, kind
):
    content = level_content(detailed=True, requests=100, seed="1")
    if decode_bench:  # all at once, so that all decode at one time
        content = lawful(content | {"start_times": [1.5] * 100, "max_concurrency": 100})
    name = "conc100.json" if decode_bench else "conc4.json"
    path = write_folder(tmp_path, f"tiny_itl100_otl11_{folder}", {name: content})
    make_manifest("2xtp1", "collocated", phase=phase, decode_bench=decode_bench, gpus=2).write(path)
    found = audit(read_study([path]))
    assert [f.kind for f in found] == [kind] * bool(kind)
    if kind:
        assert f"decode_bench {str(decode_bench).lower()}" in found[0].seen
        assert bool(refuted(found)) == (kind == "prompts not computed"), "decode at 1:OSL is an approximation"


def test_decode_at_another_context_is_not_compared(tmp_path, write_folder, level_content, make_manifest):
    folders = []
    for layout, decode_bench in (("2xtp1", False), ("1xtp2", True)):
        content = level_content(20, detailed=True, seed=layout) | {"start_times": [1.5] * 20}
        folders.append(write_folder(tmp_path, f"tiny_itl100_otl11_decode-only_{layout}", {"conc20.json": content}))
        make_manifest(layout, "collocated", phase="decode-only", decode_bench=decode_bench, gpus=2).write(folders[-1])
    found = audit(read_study(folders))
    assert "mixed contexts" in [f.kind for f in found] and refuted(found) == {str(folders[0]): ["mixed contexts"]}


# -- how the levels were measured --


def test_one_seed_for_all_levels_replays_prompts(arm):
    """20 prompts, then 40 of which 20 were sent, then 30 that all were: 50% and 100%; in the order of the dates."""
    dates = ["20260101-000001", "20260101-000003", "20260101-000002"]
    folder = arm("2xtp1", seed="0", requests=[20, 30, 40], date=dates)
    assert seen("replayed prompts", folder) == "prompts that an earlier level had sent: conc16 50%, conc8 100%"


def without_seeds(folder, *stems):
    for path in (folder / f"{stem}.json" for stem in stems):
        content = json.loads(path.read_text())
        del content["seed"]
        path.write_text(json.dumps(content))


UNKNOWN = "prompts that an earlier level had sent, unless each had a --seed of its own, which is not recorded: "


def test_of_files_without_a_seed_nothing_is_said_as_a_fact(arm):
    """The client writes no seed: they had its own, one for all, or each level one of the user's."""
    folder = arm("2xtp1")
    without_seeds(folder, "conc4", "conc8", "conc16")
    assert seen("replayed prompts", folder) == UNKNOWN + "conc8 100%, conc16 100%"


def test_what_is_known_and_what_is_not_are_said_apart(arm, make_manifest):
    folder = arm("2xtp1", seed="0")
    without_seeds(folder, "conc4")
    assert seen("replayed prompts", folder) == "prompts that an earlier level had sent: conc16 100%", "conc4 had any"
    without_seeds(folder, "conc8")
    assert seen("replayed prompts", folder) == UNKNOWN + "conc8 100%"
    manifest_of(make_manifest, (0, 0, 0)).write(folder)
    assert seen("replayed prompts", folder).endswith("had sent: conc8 100%, conc16 100%"), "the manifest has them"


def manifest_of(make_manifest, seeds, launched=("a", "a", "a"), **deployment):
    manifest = make_manifest("2xtp1", "collocated", gpus=2, **deployment)
    manifest.levels = [
        LevelRecord(level=f"conc{level}", command="c", launched=at, seed=seed, warmup_seed=None, num_prompts=200,
                    started="a", ended="b", ok=True)
        for level, seed, at in zip(LEVELS, seeds, launched, strict=True)
    ]  # fmt: skip
    return manifest


def test_a_server_launched_again_has_seen_nothing(arm, make_manifest):
    folder = arm("2xtp1", seed="0", manifest=manifest_of(make_manifest, (0, 0, 0), launched=("a", "b", "b")))
    assert seen("replayed prompts", folder).endswith(": conc16 100%")


def test_replayed_prompts_do_not_matter_without_a_prefix_cache(arm, make_manifest):
    off = {"collocated": {"engine_kwargs": {"enable_prefix_caching": False}}}
    assert found(arm("2xtp1", seed="0", manifest=manifest_of(make_manifest, (0, 0, 0), llm_configs=off))) == []


def test_prompts_shorter_than_a_cache_block_are_never_cached(arm):
    folder = arm("2xtp1", seed="0", isl=15, prefix="tiny_itl15_otl11_mixed_")
    assert found(folder) == []


def test_what_is_alike_is_reported_once(arm):
    first, second = arm("2xtp1", requests=20), arm("1xtp2", requests=20)
    assert found(first, second) == [("few requests", [first.name, second.name])]


# -- arms that are compared --


def test_a_gate_that_failed_before_measuring_is_named(arm, make_manifest):
    gates = [Gate(name=name, passed=passed, seen="36 of 40", expected="all", time="now")
             for name, passed in (("token-equality", False), ("readiness", False), ("readiness", True))]  # fmt: skip
    folder = arm("2xtp1", manifest=manifest_of(make_manifest, (0, 1, 2), gates=gates))
    assert seen("failed gate", folder) == "before measuring: token-equality: 36 of 40, expected all", "a later try passed"


def test_another_workload_is_not_compared(arm):
    other = arm("1xtp2", osl=21, prefix="tiny_itl100_otl21_mixed_", levels=(4,))
    assert found(arm("2xtp1"), other) == []


def test_missing_levels(arm):
    """Level 64 is in one arm only, so it is that arm's own; 8 and 16 are in both others."""
    first, second, short = arm("2xtp1"), arm("1xtp2", levels=(4, 8, 16, 64)), arm("1xtp4", levels=(4,))
    assert found(first, second, short) == [("missing levels", [short.name])]
    assert seen("missing levels", first, second, short) == "most of the other arms have 8, 16 (concurrency)"


def test_more_prompts_than_prefill_alone_can_compute(arm):
    """Prefill alone: 200 x 100 tokens in 2.5 s on one GPU, 8,000 tokens/s; with P and D: 10,000, and 9,524 in 2.1 s."""
    alone = arm("1xtp1", levels=(8,), osl=1, duration=2.5, prefix="tiny_itl100_otl11_prefill-only_")
    fast = arm("p1xtp1-d1xtp1", levels=(4, 8), duration=[3.0, 2.0])
    reported = seen("above prefill", alone, fast)
    assert reported == "conc8: up to 10,000 input tokens/s per prefill GPU; prefill alone at TP1 saturates at 8,000"
    slower = arm("p2xtp1-d1xtp1", duration=2.0)  # 5,000 per prefill GPU
    assert "above prefill" not in [kind for kind, _ in found(alone, slower)]


def test_a_control_is_not_compared_with_prefill_behind_ray_serve(arm):
    alone = arm("1xtp1", levels=(8,), osl=1, duration=2.5, prefix="tiny_itl100_otl11_prefill-only_")
    control = arm("bare_p1xtp1-d1xtp1", levels=(4, 8), duration=[3.0, 2.0])
    assert "above prefill" not in [kind for kind, _ in found(alone, control)]


def test_prefill_alone_that_was_not_kept_busy_bounds_nothing(arm):
    alone = arm("1xtp1", levels=(2,), osl=1, duration=2.5, prefix="tiny_itl100_otl11_prefill-only_")
    assert "above prefill" not in [kind for kind, _ in found(alone, arm("p1xtp1-d1xtp1"))]


def gate(passed):
    return Gate(name="transport", passed=passed, seen="tcp/lo", expected="srd", time="now")


@pytest.mark.parametrize(
    ("gates", "reported"),
    [
        ([], "PD, and no transport gate in the manifest"),
        ([gate(False)], "the transport gate failed: it saw tcp/lo, expected srd"),
        ([gate(False), gate(True)], None),
    ],
)
def test_the_transport_is_proved_by_its_gate(arm, make_manifest, gates, reported):
    folder = arm("p1xtp2-d1xtp2", manifest=make_manifest(gates=gates))
    assert [f.seen for f in audit(read_study([folder], details=False))] == ([reported] if reported else [])


def test_a_levels_own_gate_proves_the_transport_too(arm, make_manifest, speed_record):
    """As after run_bm.sh alone, without `python -m pdbench.gates` before it."""
    manifest = make_manifest()
    manifest.levels = [speed_record(f"conc{level}", 1.0) for level in LEVELS]
    for seed, record in enumerate(manifest.levels):
        record.gates, record.num_prompts, record.seed = [gate(True)], 200, seed
    folder = arm("p1xtp2-d1xtp2", manifest=manifest)
    assert found(folder) == []
    manifest.levels[-1].gates = []
    manifest.levels[0].gates, manifest.levels[1].gates = [gate(True)], [gate(False)]
    manifest.write(folder)
    kinds = [kind for kind, _ in found(folder)]
    assert kinds == ["failed gate", "transport not proved"]


def test_pd_without_a_manifest_proves_no_transport(arm):
    assert seen("transport not proved", arm("2xtp1"), arm("p1xtp1-d1xtp1")) == "PD without a manifest"


# -- real results --


def by_kind(folders):
    found = {}
    for finding in audit(read_study(sorted(folders), details=False)):
        found.setdefault(finding.kind, []).append(finding)
    return found


def names(finding):
    return {folder.rsplit("/", 1)[1].removeprefix("gptoss_itl5000_otl250_mixed_") for folder in finding.folders}


def test_the_published_results(published):
    found = by_kind([*(published / "bm_results").iterdir(), *(published / "archive").iterdir()])
    (mislabelled,) = found["two layouts"]
    assert names(mislabelled) == {"pd_p2xtp2-d1xtp2", "2xtp2-2xtp2"}
    assert "(8 GPUs)" in mislabelled.seen and "(6 GPUs)" in mislabelled.seen
    assert {"spread_tcp_p1xtp4-d1xtp4", "1xtp4-1xtp4-spread-ucx"} in map(names, found["same results"])
    assert {"pack_p1xtp4-d1xtp4", "pd_p1xtp4-d1xtp4", "1xtp4-1xtp4"} in map(names, found["same results"])
    replayed = {f.seen: names(f) for f in found["replayed prompts"]}
    # 20, 40, 80, 160, 240, 320 prompts: 20/40, 40/80, 80/160, 160/240, 240/320 were sent before.
    of_a_sweep = UNKNOWN + "conc8 50%, conc16 50%, conc32 50%, conc48 67%, conc64 75%"
    assert {"baseline_2xtp4", "pd_p2xtp2-d1xtp2", "spread_srd_1xtp4-1xtp4"} <= replayed[of_a_sweep]
    (versions,) = found["mixed versions"]
    assert names(versions) == {"baseline_2xtp4", "baseline_4xtp2", "spread_srd_1xtp4-1xtp4"}
    assert {"pd_p1xtp2-d3xtp2", "1xtp2-3xtp2"} in map(names, found["cold start"])
    # 53,281 input tokens/s over 2 prefill GPUs; prefill alone has 38,346 on 2.
    assert any("26,641 input tokens/s per prefill GPU" in f.seen and "19,173" in f.seen for f in found["above prefill"])


def test_the_mislabelled_folder_shows_without_the_archive_too(published):
    (odd,) = by_kind((published / "bm_results").iterdir())["odd decode"]
    assert names(odd) == {"pd_p2xtp2-d1xtp2"}


def test_this_repositorys_results_are_as_they_were_measured():
    """Checked by hand: levels of 5 to 40 requests, seeds that differ, one stack, transports that UCX named.

    Two arms were measured as published, with one seed: each level's first half had been sent by the one before.
    """
    from pdbench.configs import ROOT

    folders = [path.parent for path in (ROOT / "bm_results").glob("*_cpu_demo_*/manifest.json")]
    assert len(folders) == 5 and list(by_kind([f for f in folders if "as-published" not in f.name])) == ["few requests"]
    found = by_kind(folders)
    (replayed,) = found.pop("replayed prompts")
    (beside_unseen,) = found.pop("mixed prompts")
    assert beside_unseen.folders == replayed.folders and set(refuted([replayed, beside_unseen])) == set(replayed.folders)
    assert list(found) == ["few requests"] and all("as-published" in folder for folder in replayed.folders)
    assert len(replayed.folders) == 2 and replayed.seen.endswith("conc2 50%, conc4 50%, conc8 50%")
