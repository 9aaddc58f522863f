#!/usr/bin/env python
"""Pack the pinned GPU stack for a machine that reaches no package index: wheels, this checkout and a script that installs them.

    python packaging/offline.py OUT                              for an empty machine: 4.3 GB
    python packaging/offline.py OUT --beside freeze.txt          for an image with PyTorch for the same CUDA: 2.4 GB
    there:  bash OUT/install.sh [--python python3] VENV

`freeze.txt` is what `python3 -m pip list --format=freeze` prints there. What the image has in the pinned version is left out,
and so are CUDA's libraries if they are of the same major version; NCCL apart, which PyTorch needs as new as its own.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lock import ROOT, ResolutionError, interrupts, normalize, pip_index, read_pythons, resolve

CUDA_LIBRARY = re.compile(r"nvidia-(?!nccl|cutlass|ml-py)|cuda-(?:bindings|core|pathfinder|toolkit)")
# pip takes a wheel only for a platform that it was named.
PLATFORMS = [*(f"manylinux_2_{n}_x86_64" for n in range(39, 4, -1)), "manylinux2014_x86_64", "manylinux2010_x86_64",
             "manylinux1_x86_64"]  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="offline.py", description=__doc__, formatter_class=plain)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder to make")
    parser.add_argument("--python", choices=read_pythons(ROOT), default=read_pythons(ROOT)[-1], help="of that machine")
    parser.add_argument("--beside", type=Path, metavar="FILE", help="what its image has, as pip list --format=freeze prints it")
    parser.add_argument("--leave-out", action="append", default=[], metavar="NAME", help="a package that is not needed there")
    parser.add_argument("--part-mb", type=int, metavar="N", help="split the wheels into files of N MB")
    return parser.parse_args(argv)


def needed(pins: dict[str, str], image: dict[str, str], leave_out: set[str]) -> dict[str, str]:
    """Return the pins that must be brought along.

    Args:
        image: names and versions of what the machine's image has.
    """

    def has(name: str, version: str) -> bool:
        there = image.get(name)
        if there is None:
            return False
        return there == version or bool(CUDA_LIBRARY.match(name)) and there.split(".")[0] == version.split(".")[0]

    return {name: version for name, version in pins.items() if not has(name, version) and name not in leave_out}


def read_freeze(path: Path) -> dict[str, str]:
    """Read what `pip list --format=freeze` printed."""
    lines = (line.partition("==") for line in path.read_text().splitlines())
    return {normalize(name): version.strip().split("+")[0] for name, equals, version in lines if equals}


def download(pins: dict[str, str], python: str, into: Path) -> None:
    """Download a wheel of each pin, from the package index alone.

    Raises:
        ResolutionError: pip failed; its last line.
    """
    listed = into / "requirements.txt"
    listed.write_text("".join(f"{name}=={version}\n" for name, version in sorted(pins.items())))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp",
               "--python-version", python, *(word for name in PLATFORMS for word in ("--platform", name)),
               "-d", str(into), "-r", str(listed)]  # fmt: skip
    url = pip_index()
    # A folder of local wheels must not answer for the index: it may hold a CPU build of torch under the same version.
    env = {k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"} | {"PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=env | ({"PIP_INDEX_URL": url} if url else {}), stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise ResolutionError(done.stderr.strip().splitlines()[-1])


def pack(args: argparse.Namespace) -> None:
    """Fill the folder; it appears under its name when all is in it."""
    image = read_freeze(args.beside) if args.beside else {}
    leave_out = {normalize(name) for name in args.leave_out}
    pins = resolve(ROOT, (ROOT / "requirements.txt").read_text(), args.python, "constraints-gpu.txt")
    if unknown := leave_out - pins.keys():
        raise ResolutionError(f"--leave-out {min(unknown)}: the stack has no such package")
    wanted = needed(pins, image, leave_out)
    part = args.out.with_name(f".{args.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "wheels").mkdir(parents=True)
    print(f"offline: {len(wanted)} of {len(pins)} packages for Python {args.python}", flush=True)
    try:
        download(wanted, args.python, part / "wheels")
        subprocess.run(["git", "-C", str(ROOT), "bundle", "create", "-q", str(part / "project.bundle"), "HEAD"], check=True)
        shutil.copy(ROOT / "packaging/install_offline.sh", part / "install.sh")
        if args.part_mb:
            split(part, args.part_mb)
        os.replace(part, args.out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"offline: {size / 1e9:.2f} GB in {args.out}")


def split(folder: Path, megabytes: int) -> None:
    """Replace the wheels by `wheels.000`, `wheels.001` and so on: a tar file in pieces."""
    tar = subprocess.Popen(["tar", "cf", "-", "-C", str(folder), "wheels"], stdout=subprocess.PIPE)
    command = ["split", "-b", f"{megabytes}MB", "-d", "-a", "3", "-", str(folder / "wheels.")]
    subprocess.run(command, stdin=tar.stdout, check=True)
    if tar.wait():
        raise ResolutionError("tar failed")
    shutil.rmtree(folder / "wheels")


def main() -> int:
    args = parse_args()
    try:
        if args.out.exists():
            raise ResolutionError(f"{args.out} is there already: name another folder")
        pack(args)
    except (ResolutionError, OSError, subprocess.CalledProcessError) as error:
        print(f"offline.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main, "offline.py"))
