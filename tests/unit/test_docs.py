"""README and docs: links lead somewhere, commands parse, outputs are what commands print, the page of options is current."""

import importlib.util
import re
import shlex
from functools import cache
from glob import glob
from pathlib import Path

import pytest

import viz
from pdbench.configs import ROOT

spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs/make_cli.py")
make_cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cli)

PAGES = sorted([ROOT / "README.md", ROOT / "debug/readme_nixl_ray.md", *(ROOT / "docs").rglob("*.md")])
NOT_RUN = re.compile(r"<!-- not run: \S.* -->\n\Z")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n(?:^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
# Files of the repository; what a command makes (results, out.json) is not there before.
IN_REPOSITORY = re.compile(r"(configs|debug|docs|packaging|benchmarks)/\S+|requirements\S*\.txt")


def names(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, by the rules of its host: lower case, hyphens, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(page: Path):
    """Yield (is marked as not run, commands, expected output) of the page's bash blocks."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block[1] == "bash":
            commands = [line for line in block[2].splitlines() if shlex.split(line, comments=True)]
            yield bool(NOT_RUN.search(text[: block.start()])), commands, block[3]


@cache
def parser_of(script):
    return make_cli.parser_of(script)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def options_of(script):
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", make_cli.help_of(script)))


def check(command: str, marked: bool):
    """Fail unless the script that the command names takes its options; commands of the system must be marked as not run."""
    for words in split(command):
        program, *arguments = words
        missing = [word for word in words if IN_REPOSITORY.fullmatch(word) and not (ROOT / word).exists()]
        assert not missing, f"{command}: no {missing}"
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= targets(), command
        elif program == "python":
            script, arguments = (arguments[1], arguments[2:]) if arguments[0] == "-m" else (arguments[0], arguments[1:])
            # What follows -- is for another program.
            arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
            parser_of(script).parse_args(arguments)
        elif program.startswith(("./", "debug/")):
            given = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-zA-Z]", word)}
            assert given <= options_of(program.removeprefix("./")), command
        else:
            assert marked, f"{command}: neither checked nor marked as not run"


def split(command: str):
    """Return the words of each command of a line; what comes after a pipe or `&&` is another."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    parts = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


@pytest.mark.parametrize("name", names(PAGES))
def test_every_link_leads_to_a_file_and_a_heading(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(file), f"{name}: {target}"


@pytest.mark.parametrize("name", names(PAGES))
def test_files_and_make_targets_that_a_page_names_exist(name):
    text, folders = (ROOT / name).read_text(), "configs|debug|docs|packaging|benchmarks|pdbench|bm_results"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text) + re.findall(r"requirements[\w-]*\.txt", text):
        assert (ROOT / path).exists(), f"{name}: {path}"
    assert set(re.findall(r"`make ([a-z][a-z-]*)", text)) <= targets(), name


@pytest.mark.parametrize("name", [name for name in names(PAGES) if any(blocks(ROOT / name))])
def test_every_command_is_one_that_its_script_takes(name, capsys):
    for marked, commands, _ in blocks(ROOT / name):
        for command in commands:
            try:
                check(command, marked)
            except SystemExit:
                pytest.fail(f"{name}: {command}\n{capsys.readouterr().err}")


def test_the_readme_is_short_and_says_which_commands_print_what():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 170
    assert sum(1 for *_, output in blocks(readme) if output) >= 2


@pytest.mark.parametrize(
    ("command", "output"),
    [(commands[-1], output) for page in PAGES for marked, commands, output in blocks(page) if output and not marked],
)
def test_outputs_are_those_of_the_commands(command, output, tmp_path, monkeypatch, capsys):
    # Paths are printed as they were given, and figures are drawn where the command runs.
    (tmp_path / "bm_results").symlink_to(ROOT / "bm_results")
    monkeypatch.chdir(tmp_path)
    python, script, *words = shlex.split(command, comments=True)
    assert (python, script) == ("python", "viz.py"), f"{command}: only the output of viz.py can be checked"
    assert not viz.main([path for word in words for path in sorted(glob(word)) or [word]])
    printed = {line.strip() for line in capsys.readouterr().out.splitlines()}
    missing = [line for line in output.splitlines() if line.strip() not in printed]
    assert not missing, f"{command} prints no such line:\n" + "\n".join(missing)


def test_the_page_of_options_is_current():
    assert make_cli.main(["--check"]) == 0


def test_a_stale_page_of_options_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "cli.md").write_text("old")
    monkeypatch.setattr(make_cli, "PAGE", tmp_path / "cli.md")
    monkeypatch.setattr(make_cli, "SCRIPTS", ("check_claims.py",))
    assert make_cli.main(["--check"]) == 1 and "run python docs/make_cli.py" in capsys.readouterr().err
    make_cli.main([])
    assert make_cli.main(["--check"]) == 0 and "| `--json` `FILE` |" in (tmp_path / "cli.md").read_text()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("python viz.py --exps a --no-such-option", "unrecognized arguments: --no-such-option"),
        ("./run_bm.sh -e a --no-such-option 1", "no-such-option"),
        ("python run_experiment.py configs/experiments/nothing.yaml", "nothing.yaml"),
        ("make nothing", "make nothing"),
        ("curl http://127.0.0.1", "neither checked nor marked"),
    ],
)
def test_a_wrong_command_fails(command, reason, capsys):
    with pytest.raises((SystemExit, AssertionError)) as caught:
        check(command, marked=False)
    assert reason in str(caught.value) + capsys.readouterr().err
