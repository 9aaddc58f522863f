"""Folders are read at once; those that cannot be read are named, and the others stay in their order."""

import pytest

from pdbench.analysis.claim_evidence import read_evidence


@pytest.mark.parametrize("bad", [(0,), (6,), (2, 3), (0, 1, 5, 6)])
def test_bad_folders_are_named_and_the_others_are_read(tmp_path, write_folder, level_content, bad):
    names = [f"tiny_itl100_otl11_mixed_run{number}_2xtp1" for number in range(7)]
    for number, name in enumerate(names):
        write_folder(tmp_path, name, {"conc4.json": "{" if number in bad else level_content(duration=2 + number / 10)})
    evidence = read_evidence([tmp_path])
    assert [source.arm.folder.name for source in evidence.sources] == [n for i, n in enumerate(names) if i not in bad]
    assert len(evidence.unread) == len(bad)
    assert all(f"run{i}_2xtp1" in why and "not whole JSON" in why for i, why in zip(bad, evidence.unread, strict=True))
