"""A folder with one level, read: for the tests of folders and of a level's file."""

from pdbench.read.results import read_results

COLLOCATED = "tiny_itl100_otl11_mixed_2xtp1"


def read_one(write_folder, root, content, name=COLLOCATED, filename="conc4.json", **options):
    """The only row of a folder with one level."""
    table = read_results([write_folder(root, name, {filename: content})], **options)
    assert len(table) == 1
    return table.iloc[0]
