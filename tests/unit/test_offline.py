"""The stack for a machine that reaches no package index: what is brought along, and what the installation refuses."""

import re
import subprocess
import sys
import tarfile
import zipfile

import offline
import pytest

from pdbench.configs import ROOT

INSTALL = ROOT / "packaging/install_offline.sh"
PINS = {"torch": "2.13.0", "numpy": "2.3.5", "nvidia-cublas": "13.1.1.3", "nvidia-nccl-cu13": "2.29.7", "ray": "2.60.0",
        "nvidia-cutlass-dsl": "4.6.2", "cuda-bindings": "13.4.4"}  # fmt: skip


@pytest.mark.parametrize(
    ("image", "left_out"),
    [
        ({}, set()),
        ({"torch": "2.11.0", "numpy": "2.5.2"}, set()),  # of another version
        ({"numpy": "2.3.5"}, {"numpy"}),
        ({"nvidia-cublas": "13.1.0.3", "cuda-bindings": "13.3.1"}, {"nvidia-cublas", "cuda-bindings"}),
        ({"nvidia-cublas": "12.8.4.1"}, set()),  # of another CUDA
        ({"nvidia-nccl-cu13": "2.28.9", "nvidia-cutlass-dsl": "4.5.0"}, set()),  # torch wants its own; no CUDA library
    ],
)
def test_what_the_image_has_is_not_brought_along(image, left_out):
    assert PINS.keys() - offline.needed(PINS, image, set()).keys() == left_out
    assert "ray" not in offline.needed(PINS, image, {"ray"})


def test_a_frozen_list_is_read_as_pip_prints_it(tmp_path):
    (tmp_path / "freeze.txt").write_text("Torch_Audio==2.11.0+cu130\nnumpy==2.5.2\n-e git+x\n\n")
    assert offline.read_freeze(tmp_path / "freeze.txt") == {"torch-audio": "2.11.0", "numpy": "2.5.2"}


def test_a_folder_that_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["offline.py", str(tmp_path)])
    assert offline.main() == 1
    assert capsys.readouterr().err == f"offline.py: error: {tmp_path} is there already: name another folder\n"


def test_wheels_in_parts_are_whole_again(tmp_path):
    (tmp_path / "wheels").mkdir()
    content = bytes(range(256)) * 10_000
    (tmp_path / "wheels/vllm-1-py3-none-any.whl").write_bytes(content)
    offline.split(tmp_path, 1)
    parts = sorted(path.name for path in tmp_path.iterdir())
    assert parts == ["wheels.000", "wheels.001", "wheels.002"] and (tmp_path / parts[0]).stat().st_size == 10**6
    (tmp_path / "all.tar").write_bytes(b"".join((tmp_path / part).read_bytes() for part in parts))
    with tarfile.open(tmp_path / "all.tar") as tar:
        assert tar.extractfile("wheels/vllm-1-py3-none-any.whl").read() == content


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pyton", "x", "venv"], "install: error: unknown option --pyton: see --help\n"),
        (["--python", "no-such-python", "venv"], "install: error: no-such-python is not there\n"),
        (["."], "install: error: . is there already: name another folder\n"),
        (["venv"], "install: error: no wheels lie beside this script\n"),
    ],
)
def test_an_installation_that_cannot_be_is_refused_in_one_line(options, said, tmp_path):
    script = tmp_path / "install.sh"
    script.write_bytes(INSTALL.read_bytes())
    done = subprocess.run(["bash", str(script), *options], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, said)
    assert [path.name for path in tmp_path.iterdir()] == ["install.sh"], "nothing half-made stays"


def test_incomplete_wheels_are_refused(tmp_path):
    (tmp_path / "install.sh").write_bytes(INSTALL.read_bytes())
    (tmp_path / "wheels").mkdir()
    done = subprocess.run(["bash", str(tmp_path / "install.sh"), "venv"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "install: error: the wheels are incomplete: no vLLM is among them\n")


def wheel(folder, name, modules):
    """A wheel of a few lines, as pip takes it."""
    info = f"{name}-1.dist-info"
    content = modules | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as packed:
        for path, text in (content | {f"{info}/RECORD": record}).items():
            packed.writestr(path, text)


def installed(folder, torch):
    """Install four small wheels, beside a Python that has none of CUDA's libraries, and ask what the environment has."""
    (folder / "install.sh").write_bytes(INSTALL.read_bytes())
    (folder / "wheels").mkdir()
    for name in ("vllm", "ray", "nixl"):
        wheel(folder / "wheels", name, {f"{name}.py": ""})
    wheel(folder / "wheels", "torch", torch)
    command = ["bash", str(folder / "install.sh"), "--python", sys.executable, str(folder / "venv")]
    return subprocess.run(command, capture_output=True, text=True)


TORCH = "class cuda:\n    device_count = staticmethod(lambda: 2)\n\n\nclass version:\n    cuda = '13.0'\n"


@pytest.mark.parametrize("own", [{}, {"nvidia/nccl/lib/libnccl.so.2": ""}])
def test_the_environment_is_made_with_or_without_libraries_of_its_own(own, tmp_path):
    done = installed(tmp_path, {"torch.py": TORCH} | own)
    assert done.returncode == 0, done.stderr
    assert "install: torch 1, vllm 1, ray 1, nixl 1 CUDA 13.0 2 GPUs" in done.stdout
    activated = (tmp_path / "venv/bin/activate").read_text()
    assert bool(re.search(r"LD_LIBRARY_PATH=/\S*/venv/lib/\S*/nvidia/nccl/lib", activated)) == bool(own)


def test_a_stack_that_does_not_load_is_no_environment(tmp_path):
    done = installed(tmp_path, {"torch.py": "raise OSError('libcudart.so.13: cannot open shared object file')"})
    assert done.returncode == 1 and "libcudart.so.13" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("install: error: line ") and not (tmp_path / "venv").exists()
