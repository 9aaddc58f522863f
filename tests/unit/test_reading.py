"""One call of viz.py opens each file of a result folder once."""

import collections
import json
import subprocess
import sys

import pytest

from pdbench.configs import ROOT

# In a process of its own: an audit hook stays until its end.
COUNTS = """
import collections, json, sys
import viz

opened = collections.Counter()
sys.addaudithook(lambda event, args: opened.update([str(args[0])]) if event == "open" else None)
viz.main(json.loads(sys.argv[1]))
print(json.dumps(opened), file=sys.stderr)
"""
ALL = "--audit --sla tpot=30 --show-tables --show-stalls --show-intervals --show-decision".split()


@pytest.mark.parametrize(
    "options",
    [
        ["--audit"],
        ["--audit", "--sla", "tpot=30", "--report", "report.html"],
        [*ALL, "--report", "report.html", "--plot-path", "figure.png"],
        *(["--figure", figure, "--plot-path", "figure.png"] for figure in ("latencies", "timeline", "network")),
    ],
)
def test_each_file_is_opened_once(options, tmp_path, write_folder, level_content, make_manifest):
    folders = []
    for layout, mode in (("2xtp1", "collocated"), ("p1xtp1-d1xtp1", "pd-pack")):
        levels = {f"conc{c}.json": level_content(concurrency=c, requests=5 * c, detailed=True, date=layout) for c in (4, 8)}
        folders.append(write_folder(tmp_path, f"tiny_itl100_otl11_mixed_{layout}", levels))
        make_manifest(layout, mode).write(folders[-1])
    command = [sys.executable, "-c", COUNTS, json.dumps(["--exps", *map(str, folders), *options])]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    opened = collections.Counter(json.loads(done.stderr.splitlines()[-1]))
    files = [path for folder in folders for path in folder.iterdir()]
    assert {path.name: opened[str(path)] for path in files} == {path.name: 1 for path in files} and len(files) == 6
