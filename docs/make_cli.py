#!/usr/bin/env python
"""Write docs/cli.md: every script with its options, from the scripts' own argument parsers.

python docs/make_cli.py            write docs/cli.md
python docs/make_cli.py --check    fail if it is stale
"""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs/cli.md"
SCRIPTS = (
    "launch_gptoss.py", "run_bm.sh", "run_experiment.py", "viz.py", "plan.py", "check_claims.py", "reproduce_published.sh",
    "pdbench.gates", "pdbench.local_cluster", "pdbench.slow_link", "pdbench.shape", "pdbench.measure.gather",
    "pdbench.read.trim",
    "debug/doctor.py", "debug/test_nixl_connector_ray.py", "debug/which_transport.py",
    "debug/build_nixl_ucx_efa.sh",
    "benchmarks/stages.py", "benchmarks/routing.py", "benchmarks/read_speed.py", "benchmarks/coverage.py",
    "benchmarks/ratio_policy.py", "benchmarks/planner.py", "benchmarks/peer.py", "benchmarks/sharing.py",
    "benchmarks/pool_sharing.py", "benchmarks/decode_steps.py",
    "packaging/lock.py", "packaging/offline.py", "packaging/install_offline.sh",
)  # fmt: skip
HEADER = """# Command line reference

Written by `python docs/make_cli.py` from the scripts themselves; a unit test fails when it is stale. `--help` of a
script prints the same. What each script is for: [cluster.md](cluster.md#the-scripts).
"""


class Parsed(Exception):
    """Carries a script's parser out of the script, at the moment when it would parse."""

    def __init__(self, parser: argparse.ArgumentParser):
        super().__init__("parsed")
        self.parser = parser


def parser_of(script: str) -> argparse.ArgumentParser:
    """Return the parser of a Python script, or of a module that `python -m` runs; nothing of it is executed but its parser."""

    def stop(parser, *_args, **_kwargs):
        raise Parsed(parser)

    run, target = (runpy.run_path, str(ROOT / script)) if script.endswith(".py") else (runpy.run_module, script)
    folder = str((ROOT / script).parent) if script.endswith(".py") else str(ROOT)
    # runpy warns about a module that was imported before.
    loaded = sys.modules.pop(script, None)
    try:
        with (
            patch.object(argparse.ArgumentParser, "parse_args", stop),
            patch.object(argparse.ArgumentParser, "parse_known_args", stop),
            patch.object(sys, "argv", [script]),
            patch.object(sys, "path", [folder, *sys.path]),
        ):
            run(target, run_name="__main__")
    except Parsed as parsed:
        return parsed.parser
    finally:
        if loaded is not None:
            sys.modules[script] = loaded
    raise ValueError(f"{script} does not parse its command line")


def help_of(script: str) -> str:
    """Return what a shell script prints with `--help`."""
    done = subprocess.run(["bash", str(ROOT / script), "--help"], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "COLUMNS": "100"})  # fmt: skip
    return done.stdout.replace(f"{ROOT}/", "").strip()


def command(script: str) -> str:
    if script.endswith(".sh"):
        return f"bash {script}" if "install" in script else f"./{script}"
    return f"python {script}" if script.endswith(".py") else f"python -m {script}"


def plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def shown(value: object) -> str:
    """Return a default for the table: nothing where there is none."""
    if value in (None, False, True, argparse.SUPPRESS) or value == []:
        return ""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"`{text}`".replace(f"{ROOT}/", "")


def row(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    value = formatter._format_args(action, action.dest.upper()) if action.option_strings else ""
    names = ", ".join(f"`{name}`" for name in action.option_strings or [action.metavar or action.dest])
    if action.option_strings and action.nargs != 0:
        names += f" `{value}`"
    if not action.option_strings and action.choices:
        names += ": " + ", ".join(f"`{choice}`" for choice in action.choices)
    meaning = (action.help or "") % {**vars(action), "prog": formatter._prog} if action.help else ""
    meaning = meaning.removesuffix(f"(default: {action.default})").replace(f"{ROOT}/", "")
    default = "" if action.nargs == 0 or "(default" in meaning else shown(action.default)
    return f"| {plain(names)} | {plain(meaning)} | {plain(default)} |"


def table(parser: argparse.ArgumentParser) -> str:
    """Return the options of a parser, a table for each of its groups, and those of its subcommands."""
    formatter, parts = parser._get_formatter(), []
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != argparse.SUPPRESS and "--help" not in one.option_strings]
        commands = [one for one in actions if isinstance(one, argparse._SubParsersAction)]
        rows = [row(one, formatter) for one in actions if one not in commands]
        if rows:
            title = "" if group.title in ("options", "positional arguments") else f"**{group.title}**\n\n"
            parts.append(title + "\n".join(["| option | meaning | default |", "|---|---|---|", *rows]))
        for name, sub in ((name, sub) for one in commands for name, sub in one.choices.items()):
            parts.append(f"**`{name}`**\n\n{table(sub)}".strip())
    return "\n\n".join(parts)


def page() -> str:
    """Return docs/cli.md as the scripts are now."""
    parts = [HEADER]
    for script in SCRIPTS:
        if script.endswith(".sh"):
            body = f"```text\n{help_of(script)}\n```"
        else:
            parser = parser_of(script)
            body = f"{(parser.description or '').strip()}\n\n{table(parser)}"
        parts.append(f"## {script}\n\n`{command(script)}`\n\n{body.strip()}\n")
    return "\n".join(parts).replace(str(ROOT), ".")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if docs/cli.md is stale")
    args = parser.parse_args(argv)
    if not args.check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        print("make_cli: docs/cli.md is stale: run python docs/make_cli.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
