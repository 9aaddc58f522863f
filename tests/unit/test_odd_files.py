"""Whatever lies where a result is looked for, the answer is one line, and it comes at once."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import check_claims
import viz
from pdbench.read.level_file import ResultError
from pdbench.read.results import read_results, read_study

ROOT = Path(viz.__file__).parent
GOOD, OTHER = "tiny_itl100_otl11_mixed_2xtp1", "tiny_itl100_otl11_mixed_4xtp1"


@pytest.fixture
def good(tmp_path, write_folder, level_content):
    return write_folder(tmp_path, GOOD, {"conc4.json": level_content(4)})


def fails(capsys, *args):
    """One line on stderr, without the program's name."""
    with pytest.raises(SystemExit) as stopped:
        viz.main(["--show-tables", *map(str, args)])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1
    return err


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        one.bind(path.name)
        os.chdir(here)


ODD = {
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),  # endless
}


def too_long(*_):
    raise TimeoutError


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["conc8.json", "manifest.json", "run=0.json", "conc8_rep2.json"])
def test_what_is_no_file_is_refused(good, capsys, kind, name):
    if name == "run=0.json":
        (good / "conc4.json").unlink()
    ODD[kind](good / name)
    signal.signal(signal.SIGALRM, too_long)  # pytest would wait for ever, as viz.py once did
    signal.alarm(60)
    try:
        assert fails(capsys, "--audit", "--exps", good) == f"viz.py: error: {good / name}: is {kind}, not a file\n"
    finally:
        signal.alarm(0)


def test_a_pipe_is_not_waited_for(good):
    os.mkfifo(good / "conc8.json")
    command = [sys.executable, ROOT / "viz.py", "--show-tables", "--exps", good]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_an_odd_file_of_another_name_is_refused(good, capsys):
    os.mkfifo(good / "notes.json")
    assert "'notes.json' is not a level" in fails(capsys, "--exps", good)


def test_claims_do_not_wait_either(good, tmp_path, write_folder, level_content, capsys):
    other = write_folder(tmp_path, OTHER, {"conc4.json": level_content(4)})
    os.mkfifo(other / "conc8.json")
    claims = ROOT / "configs/claims/study.yaml"
    check_claims.main([str(claims), "--results", str(tmp_path)])
    assert "not read: " in (out := capsys.readouterr().out) and "is a named pipe, not a file" in " ".join(out.split())


@pytest.mark.parametrize("where", ["folder", "level", "manifest"])
def test_loops_of_links_are_refused(good, capsys, where):
    loop = {"folder": good.with_name("tiny_itl100_otl11_mixed_8xtp1"), "level": good / "conc8.json",
            "manifest": good / "manifest.json"}[where]  # fmt: skip
    loop.symlink_to(loop.name)
    line = fails(capsys, "--exps", good, *[loop] * (where == "folder"))
    assert f"{loop}: {'is a link that leads nowhere' if where == 'folder' else 'Too many levels of symbolic links'}" in line


def test_a_loop_of_folders_is_not_followed(good, write_folder, level_content):
    (good / "conc4.json").rename(good / "run=0.json")
    (good / "again").symlink_to(good, target_is_directory=True)
    assert len(read_results([good])) == 1


@pytest.mark.parametrize("denied", [GOOD, "conc4.json", "manifest.json"])
def test_what_may_not_be_read_is_named(good, capsys, monkeypatch, denied, make_manifest):
    """Tests run as root, which may read everything."""
    make_manifest("2xtp1", "collocated").write(good)

    def denying(real):
        def deny(path, *args, **kwargs):
            if Path(path).name == denied:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **kwargs)

        return deny

    for name in ("iterdir", "open", "read_bytes"):
        monkeypatch.setattr(Path, name, denying(getattr(Path, name)))
    assert f"{denied}: Permission denied" in fails(capsys, "--exps", good)


def test_claims_name_folders_that_may_not_be_read(good, tmp_path, monkeypatch, capsys):
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    check_claims.main([str(ROOT / "configs/claims/study.yaml"), "--results", str(tmp_path)])
    assert "closed: Permission denied" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"tiny_itl{10**30}_otl11_mixed_2xtp1", "prompts have 100 tokens on average, but the folder's name says"),
        (f"tiny_itl100_otl11_mixed_{10**30}xtp1", "GPUs above 1,000,000,000,000: no measurement has that"),
    ],
)
def test_numbers_that_no_column_holds_are_refused(tmp_path, write_folder, level_content, name, reason):
    with pytest.raises(ResultError, match=reason):
        read_results([write_folder(tmp_path, name, {"conc4.json": level_content(4)})])


# -- what a pattern matches --


def test_files_beside_result_folders_are_left_out(good, tmp_path, capsys):
    """`--exps bm_results/*` matches figures, recipes and times, too."""
    for name in ("a.png", "a.sh", "a_times.json", "b.png", "b_times.json"):
        (tmp_path / name).touch()
    viz.main(["--show-tables", "--exps", *sorted(map(str, tmp_path.iterdir()))])
    out, err = capsys.readouterr()
    assert "2xtp1" in out and err == "viz.py: left out, no folders: a.png, a.sh, a_times.json and 2 more\n"


@pytest.mark.filterwarnings("error")  # Matplotlib warns, and draws all parts over each other, where a legend leaves no room
def test_the_documented_pattern_works_on_the_projects_own_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = sorted(map(str, (ROOT / "bm_results").iterdir()))
    viz.main(["--plot-path", "tradeoff.pdf", "--log-latency", "--most-arms", "100", "--exps", *paths])
    out, err = capsys.readouterr()
    said = ["left out, no folders: ", "left out, since its load shifts", "refuted by the audit, drawn with a †"]
    lines = [line for line in err.splitlines() if "much is to be read" not in line]  # said of as many results as there are now
    assert "tradeoff.pdf: " in out
    assert all(line.startswith(f"viz.py: {words}") for line, words in zip(lines, said, strict=True))


def test_files_alone_are_an_error(tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert "a.png: is not a folder" in fails(capsys, "--exps", tmp_path / "a.png")


def test_a_folder_that_is_not_there_is_an_error_beside_others(good, tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert "nowhere: no such folder" in fails(capsys, "--exps", good, tmp_path / "a.png", tmp_path / "nowhere")


def test_claims_leave_files_out_too(good, tmp_path, capsys):
    (tmp_path / "a.png").touch()
    check_claims.main([str(ROOT / "configs/claims/study.yaml"), "--results", str(good), str(tmp_path / "a.png")])
    assert "left out, no folder: a.png" in capsys.readouterr().out


# -- what cannot be read --


@pytest.fixture
def bad(tmp_path, write_folder):
    """Folders that cannot be read, each for its own reason."""
    empty = tmp_path / "tiny_itl100_otl11_mixed_1xtp1"
    empty.mkdir()
    return [
        write_folder(tmp_path, "notes", {"conc4.json": "{}"}),
        empty,
        write_folder(tmp_path, "tiny_itl100_otl11_mixed_1xtpqp4", {"conc4.json": "{}"}),
        write_folder(tmp_path, "tiny_itl100_otl11_mixed_8xtp1", {"conc4.json": "["}),
        tmp_path / "nowhere",
    ]


def test_folders_that_cannot_be_read_are_left_out_if_asked(good, bad, capsys):
    viz.main(["--show-tables", "--show-decision", "--skip-unreadable", "--exps", *map(str, bad[:2]), str(good),
              *map(str, bad[2:])])  # fmt: skip
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert "2xtp1" in out and len(lines) == len(bad)
    for path, line, reason in zip(
        bad, lines, ("is not a result", "no level", "no single", "whole JSON", "no such"), strict=True
    ):
        assert line.startswith(f"viz.py: left out: {path}") and reason in line


def test_without_asking_the_first_of_them_is_an_error(good, bad, capsys):
    assert f"{bad[0]}: " in fails(capsys, "--exps", good, *bad)


def test_where_none_can_be_read_that_is_an_error(bad, capsys):
    assert f"no folder can be read: {bad[0]}: " in fails(capsys, "--skip-unreadable", "--exps", *bad)


def test_a_folder_given_twice_is_an_error_all_the_same(good, capsys):
    assert "given 2 times" in fails(capsys, "--skip-unreadable", "--exps", good, good)


def test_what_was_left_out_is_in_no_answer(good, bad):
    unreadable = []
    study = read_study([*bad, good], unreadable=unreadable)
    assert list(study.folders) == [str(good)] and len(unreadable) == len(bad) and set(study.table["folder"]) == {str(good)}


def test_a_report_that_cannot_be_written_is_one_line(good, capsys, tmp_path, monkeypatch):
    from pdbench.output import answers

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answers, "write_atomically", full)
    assert f"{tmp_path / 'a.html'}: No space left on device" in fails(capsys, "--report", tmp_path / "a.html", "--exps", good)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_the_output_is_one_line(good):
    with open("/dev/full", "w") as full:
        command = [sys.executable, ROOT / "viz.py", "--show-tables", "--exps", good]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "viz.py: error: standard output: No space left on device\n")


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_is(tmp_path, monkeypatch, write_folder, level_content):
    monkeypatch.chdir(tmp_path)
    names = (rf"tiny_itl100_otl11_mixed_2xtp1_{word}" for word in (r"$\foo$", "$b"))
    folders = [str(write_folder(tmp_path, name, {"conc4.json": level_content(4)})) for name in names]
    viz.main(["--plot-path", "a.svg", "--exps", *folders])  # once a traceback of Matplotlib
    assert r"2xtp1 $\foo$" in (drawn := Path("a.svg").read_text("utf-8")) and "2xtp1 $b" in drawn


def test_the_audit_compares_summaries_with_requests(tmp_path, write_folder, level_content, capsys):
    content = level_content(4, detailed=True) | {"median_ttft_ms": 1.0}
    folder = write_folder(tmp_path, OTHER, {"conc4.json": content})
    assert "median_ttft_ms is 1, but by the requests' own times it is 50" in fails(capsys, "--audit", "--exps", folder)
