"""Labels of arms: in few words, and no two alike."""

import pytest

from pdbench.read.results import read_results
from tests.helpers.one_level import COLLOCATED

PD = "tiny_itl100_otl11_mixed_p1xtp1-d1xtp2"


def labels(root, write_folder, level_content, *names, **content):
    folders = [write_folder(root, name, {"conc4.json": level_content(**content)}) for name in names]
    return list(read_results(folders)["arm"])


def test_labels_are_layout_and_placement(tmp_path, write_folder, level_content):
    names = (COLLOCATED, PD, "tiny_itl100_otl11_mixed_pack_p1xtp1-d1xtp2")
    found = labels(tmp_path, write_folder, level_content, *names)
    assert found == ["2xtp1", "p1xtp1-d1xtp2", "p1xtp1-d1xtp2 pack"]


def test_labels_take_more_of_the_name_where_two_would_collide(tmp_path, write_folder, level_content):
    names = [f"tiny_itl100_otl11_mixed_spread_{net}_1xtp4-1xtp4" for net in ("srd", "tcp")]
    found = labels(tmp_path, write_folder, level_content, COLLOCATED, *names)
    assert found == ["2xtp1", "p1xtp4-d1xtp4 spread srd", "p1xtp4-d1xtp4 spread tcp"]


def test_labels_leave_out_what_all_names_share(tmp_path, write_folder, level_content):
    """As the arms of one experiment do."""
    names = [f"tiny_itl100_otl11_mixed_net_{arm}" for arm in ("2xtp1", "spread_p1xtp1-d1xtp1", "spread_p1xtp1-d1xtp1_slow")]
    found = labels(tmp_path, write_folder, level_content, *names)
    assert found == ["2xtp1", "p1xtp1-d1xtp1 spread", "p1xtp1-d1xtp1 spread slow"]


def test_labels_name_a_setting_that_tells_two_arms_apart_wherever_it_is_set(tmp_path, write_folder, level_content):
    """`1xtp2` alone would look like the default beside `2xtp1 step512`; what all share is still left out."""
    names = [f"tiny_itl100_otl11_mixed_net_{arm}" for arm in ("2xtp1", "2xtp1_step512", "1xtp2_step512", "4xtp1")]
    found = labels(tmp_path, write_folder, level_content, *names)
    assert found == ["2xtp1", "2xtp1 step512", "1xtp2 step512", "4xtp1"]


def test_labels_say_the_workload_where_it_differs(tmp_path, write_folder, level_content):
    one = write_folder(tmp_path, COLLOCATED, {"conc4.json": level_content()})
    other = write_folder(tmp_path, "tiny_itl50_otl11_mixed_2xtp1", {"conc4.json": level_content(isl=50)})
    assert list(read_results([one, other])["arm"]) == ["2xtp1 100:11", "2xtp1 50:11"]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["a", "b"], ["a", "b"]),
        (["a/results", "b/results"], ["a", "b"]),
        (["one/results", "two/more/results"], ["one", "more"]),
        (["a/x", "a/y", "b/x"], ["a/x", "a/y", "b/x"]),
        (["", "a", "a/a"], ["{root}", "a", "a/a"]),
        (["a/x", "b/a/x"], ["a/x", "b/a/x"]),
    ],
)
def test_folders_of_one_name_are_distinguished_by_the_least_of_their_paths(places, said, tmp_path, write_folder, level_content):
    folders = [write_folder(tmp_path / place, COLLOCATED, {"conc4.json": level_content()}) for place in places]
    assert list(read_results(folders)["arm"]) == [f"2xtp1 ({words.format(root=tmp_path.name)})" for words in said]


def test_folders_of_one_name_do_not_lengthen_the_labels_of_others(tmp_path, write_folder, level_content):
    names = [(place, f"tiny_itl100_otl11_mixed_x_{arm}") for place in "ab" for arm in ("2xtp1", "2xtp1_slow")]
    names += [("a", "tiny_itl100_otl11_mixed_x_1xtp2")]
    folders = [write_folder(tmp_path / place, name, {"conc4.json": level_content()}) for place, name in names]
    assert list(read_results(folders)["arm"]) == ["2xtp1 (a)", "2xtp1 slow (a)", "2xtp1 (b)", "2xtp1 slow (b)", "1xtp2"]


def test_folders_in_one_place_whose_names_mean_the_same_are_distinguished_by_these(tmp_path, write_folder, level_content):
    names = ("tiny_itl100_otl11_2xtp1", "tiny_itl100_otl11_mixed_2xtp1")
    assert labels(tmp_path, write_folder, level_content, *names) == [f"2xtp1 ({name})" for name in names]
