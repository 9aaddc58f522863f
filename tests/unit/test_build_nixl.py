"""debug/build_nixl_ucx_efa.sh: its refusals and failures on the real thing, its order of work on tiny source trees.

The trees that are called tiny are no UCX and no NIXL: they show what the script does when a build succeeds or fails,
not that these two can be built.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pdbench.configs import ROOT

SCRIPT = ROOT / "debug/build_nixl_ucx_efa.sh"
CONFIGURE = """#!/bin/sh
[ -z "$REFUSE" ] || { echo "checking for a reason... $REFUSE" && exit 77; }
for option; do case $option in --prefix=*) prefix=${option#*=} ;; esac; done
printf 'all:\\n\\tsleep %s\\ninstall:\\n\\tmkdir -p $(DESTDIR)%s/bin $(DESTDIR)%s/lib\\n' "${SLOW:-0}" $prefix $prefix >Makefile
printf '\\tcp ucx_info $(DESTDIR)%s/bin\\n\\techo tiny >$(DESTDIR)%s/lib/libucp.so.0\\n' $prefix $prefix >>Makefile
"""
UCX_INFO = """#!/bin/sh
case $1 in -v) echo "# Library version: 9.9.9" ;; *) printf '#      Transport: %s\\n' tcp tcp self ;; esac
"""
NIXL_API = """import mmap, os
def nixl_agent_config(**options): return options
def nixl_agent(name, config):
    global library
    with open(os.environ["LD_LIBRARY_PATH"].split(":")[0] + "/libucp.so.0", "rb") as file:
        library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
"""
BACKEND = """import os, pathlib, shutil, zipfile
def wheel(folder, name, files):
    info = f"{name}-9.9.9.dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder) / f"{name}-9.9.9-py3-none-any.whl", "w") as archive:
        files |= {info + "METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 9.9.9\\n",
                  info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(info + "RECORD", "".join(f"{path},,\\n" for path in files))
    return f"{name}-9.9.9-py3-none-any.whl"
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    if not config_settings: # in the folder that the build of the libraries leaves behind
        return wheel(wheel_directory, "nixl", {"nixl/__init__.py": "", "nixl/_api.py": pathlib.Path("api.py").read_text()})
    assert not os.path.exists(os.environ["CUDA_HOME"]), "--with-cuda no"
    assert "-Ddisable_gds_backend=true" in config_settings["setup-args"], "this version has it"
    assert "-Dbuild_tests=false" not in config_settings["setup-args"], "and not this"
    shutil.copytree(".", pathlib.Path(config_settings["build-dir"]) / "src/bindings/python/nixl-meta")
    return wheel(wheel_directory, "nixl_cu12", {".nixl_cu12.mesonpy.libs/plugins/libplugin_UCX.so": "tiny"})
"""
# No index has this torch: a build that asks for it fails.
PYPROJECT = '[build-system]\nrequires = ["torch==0.0.*"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def build(*options: str, script: Path = SCRIPT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(script), *options], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"XDG_CACHE_HOME": "/nowhere"} | environment)  # fmt: skip


def repository(folder: Path, files: dict[str, str]) -> tuple[str, str]:
    """A git checkout of `files`; returns its path and commit."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "tiny"]):
        subprocess.run(git + command, check=True)
    return str(folder), subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def tiny(tmp_path):
    """Options that build a tiny UCX alone, from a checkout of its own commit, into tmp_path/prefix."""
    source, commit = repository(tmp_path / "ucx", {"configure": CONFIGURE, "ucx_info": UCX_INFO})
    return ["--ucx-only", "--source-ucx", source, "--ucx-commit", commit, "--prefix", str(tmp_path / "prefix"),
            "--with-cuda", "no", "--with-efa", "no", "--jobs", "1"]  # fmt: skip


@pytest.fixture
def build_tools(tmp_path):
    """PATH with something by the name of each tool that real sources need and tiny ones do not; those installed come first."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("autoreconf", "automake", "libtoolize", "pkg-config", "cmake"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return f"{os.environ['PATH']}{os.pathsep}{folder}"


def held(prefix: Path) -> set[str]:
    return {path.name for path in prefix.iterdir()}


@pytest.mark.parametrize("options, said", [
    (["--prefx", "/x"], "unknown option --prefx"),
    (["extra"], "unknown option extra"),
    (["--prefix"], "option --prefix needs a value"),
    (["--prefix", "--force"], "option --prefix needs a value"),
    (["--prefix", "/tmp/with space"], "may hold letters, digits"),
    (["--prefix", "/proc/nixl"], "sudo install -d"),
    (["--stack", "newest"], "--stack 'newest' is not current or original"),
    (["--jobs", "0"], "--jobs '0' is not a number"),
    (["--ucx-commit", "v1.21.0"], "by all of its 40"),
    (["--with-efa", "/nowhere"], "holds no include/infiniband/efadv.h"),
    (["--with-cuda", "/nowhere"], "holds no include/cuda.h and bin/nvcc"),
    (["--python", "/nowhere/python"], "--python '/nowhere/python' is not there"),
    (["--source-ucx", "/nowhere"], "no such folder"),
    (["--unpinned"], "--unpinned goes with"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_reported_in_one_line(options, said, tmp_path, tiny):
    if "/proc/nixl" in options:  # everything else about it is right
        options = [*tiny, *options]
    done = build(*options, HOME=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and said in done.stderr
    assert held(tmp_path) <= {"ucx"}, "nothing is written"


def test_a_cuda_toolkit_that_cannot_be_linked_with_is_reported(tmp_path, tiny):
    toolkit = tmp_path / "cuda"
    for name in ("bin/nvcc", "include/cuda.h", "include/cuda_runtime.h", "include/nvml.h"):
        (toolkit / name).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / name).touch(mode=0o755)
    done = build(*tiny, "--with-cuda", str(toolkit))
    assert done.returncode == 2 and f"--with-cuda '{toolkit}' is incomplete: cannot find -lcud" in done.stderr
    done = build(*tiny, "--with-cuda", "auto", "--dry-run", CUDA_HOME=str(toolkit))
    if Path("/proc/driver/nvidia/version").exists():
        assert done.returncode == 2 and "there is a GPU, but" in done.stderr
    else:
        assert done.returncode == 0 and "is left out: it is incomplete: cannot find -lcud" in done.stderr
        assert "CUDA no" in done.stderr and "--without-cuda" in done.stdout

    (toolkit / "lib64/stubs").mkdir(parents=True)
    for name in ("libcudart.so", "stubs/libcuda.so", "stubs/libnvidia-ml.so"):
        subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", str(toolkit / "lib64" / name)], check=True)
    done = build(*tiny, "--with-cuda", "auto", "--dry-run", CUDA_HOME=str(toolkit))
    assert done.returncode == 0 and f"--with-cuda={toolkit} " in done.stdout

    (tmp_path / "ucx/external/gpunetio").mkdir(parents=True)  # as git leaves a submodule that it could not fetch
    done = build(*tiny, "--with-cuda", str(toolkit))
    assert done.returncode == 1 and "needs its submodule external/gpunetio for CUDA" in done.stderr
    assert build(*tiny).returncode == 0, "without CUDA it is not needed"


def test_help_names_every_option():
    done = build("--help")
    named = set(done.stdout.replace("|", " ").split())
    assert done.returncode == 0 and {"--stack", "--prefix", "--force", "--dry-run", "--unpinned", "--source-nixl"} <= named


def test_missing_tools_are_all_named_with_how_to_get_them(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "nproc", "grep", "realpath", "make", "gcc"):
        (tools / tool).symlink_to(shutil.which(tool))
    done = build("--prefix", str(tmp_path / "prefix"), "--python", sys.executable, "--with-cuda", "no", PATH=str(tools))
    assert done.returncode == 2 and not (tmp_path / "prefix").exists()
    for tool in ("g++ (apt-get install g++, or dnf install gcc-c++)", "git", "flock", "autoreconf", "libtoolize", "cmake"):
        assert f"error: missing: {tool}" in done.stderr
    assert "missing: make" not in done.stderr and "missing: gcc" not in done.stderr


@pytest.mark.parametrize("case", ["no git", "another commit", "changed"])
def test_a_local_source_is_what_it_is_taken_for(case, tiny, tmp_path):
    said = {"no git": "is no git checkout", "another commit": "is at ", "changed": "has changes"}[case]
    if case == "no git":
        shutil.rmtree(tmp_path / "ucx/.git")
    elif case == "changed":
        (tmp_path / "ucx/ucx_info").write_text(UCX_INFO.replace("tcp", "srd"))
    else:
        tiny[tiny.index("--ucx-commit") + 1] = 40 * "0"
    done = build(*tiny)
    assert done.returncode == 2 and said in done.stderr and "--unpinned" in done.stderr
    assert not (tmp_path / "prefix").exists()
    assert build(*tiny, "--unpinned").returncode == 0, "unless asked to"


def test_a_failing_configure_shows_its_log_and_installs_nothing_then_all_goes_on(tiny, tmp_path):
    prefix = tmp_path / "prefix"
    done = build(*tiny, REFUSE="none found")
    log = prefix / ".build/logs/02-ucx-configure.log"
    assert done.returncode == 1 and held(prefix) == {".build", ".lock"}
    assert "checking for a reason... none found" in done.stderr and "none found" in log.read_text()
    assert f"error: ucx-configure failed with code 77: see {log}; nothing was installed" in done.stderr
    assert build(*tiny).returncode == 0
    assert held(prefix) == {"bin", "lib", "logs", "env.sh", ".stamp", ".lock"}


def test_a_build_is_not_repeated_and_not_replaced_unless_forced(tiny, tmp_path):
    first = build(*tiny)
    assert first.returncode == 0 and "UCX 9.9.9; transports on this machine: self tcp" in first.stdout
    begun = (tmp_path / "prefix/.stamp").stat().st_mtime_ns
    again = build(*tiny, "--jobs", "2")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert (tmp_path / "prefix/.stamp").stat().st_mtime_ns == begun

    (tmp_path / "ucx/ucx_info").write_text(UCX_INFO.replace("9.9.9", "10.0"))
    refused = build(*tiny, "--unpinned")
    assert refused.returncode == 2 and "holds another build" in refused.stderr
    broken = build(*tiny, "--unpinned", "--force", REFUSE="none")
    assert broken.returncode == 1 and "9.9.9" in (tmp_path / "prefix/bin/ucx_info").read_text(), "the old one stays"
    assert (tmp_path / "prefix/.stamp").stat().st_mtime_ns == begun
    forced = build(*tiny, "--unpinned", "--force")
    assert forced.returncode == 0 and "UCX 10.0" in forced.stdout


def test_a_folder_of_others_is_never_built_into(tiny, tmp_path):
    (tmp_path / "prefix/lib").mkdir(parents=True)
    (tmp_path / "prefix/lib/libucp.so").write_text("theirs")
    done = build(*tiny, "--force")
    assert done.returncode == 2 and "holds something that this script did not build (lib" in done.stderr
    assert (tmp_path / "prefix/lib/libucp.so").read_text() == "theirs"


def test_an_installed_nixl_wheel_is_not_built_over(tmp_path, tiny, build_tools):
    """Real: the tests' own Python has NIXL."""
    script = with_transfer(tmp_path)
    at = tiny.index("--ucx-only")
    done = build(*tiny[:at], *tiny[at + 1 :], "--python", sys.executable, script=script, PATH=build_tools)
    assert done.returncode == 2 and f"{sys.executable} has nixl " in done.stderr and "--force" in done.stderr


def test_what_an_interrupted_install_left_is_cleared_away(tiny, tmp_path):
    (tmp_path / "prefix/lib").mkdir(parents=True)
    (tmp_path / "prefix/lib/half").touch()
    (tmp_path / "prefix/.incomplete").touch()
    done = build(*tiny)
    assert done.returncode == 0 and "clearing away" in done.stdout
    assert held(tmp_path / "prefix") == {"bin", "lib", "logs", "env.sh", ".stamp", ".lock"}
    assert held(tmp_path / "prefix/lib") == {"libucp.so.0"}


def test_two_at_once_build_once(tiny, tmp_path):
    runs = [subprocess.Popen(["bash", str(SCRIPT), *tiny], stdout=subprocess.PIPE, text=True, env=os.environ | {"SLOW": "1"})
            for _ in range(3)]  # fmt: skip
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sum("done in" in text for text in said) == 1
    assert sum("is under way: waiting" in text and "nothing to do" in text for text in said) == 2


def test_ended_in_the_middle_it_installs_nothing_and_gives_the_lock_back(tiny, tmp_path):
    run = subprocess.Popen(["bash", str(SCRIPT), *tiny], stderr=subprocess.PIPE, text=True, process_group=0,
                           stdout=subprocess.DEVNULL, env=os.environ | {"SLOW": "60"})  # fmt: skip
    while not list((tmp_path / "prefix").glob(".build/logs/*ucx-make.log")):
        assert run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGTERM)
    assert "interrupted; nothing was installed" in run.communicate(timeout=30)[1] and run.returncode == 130
    assert held(tmp_path / "prefix") == {".build", ".lock"}
    assert build(*tiny).returncode == 0


def with_transfer(tmp_path: Path, body: str = "open(sys.argv[-1], 'w').write('{}')") -> Path:
    """The script beside a transfer check that does `body`."""
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug/test_nixl_connector_ray.py").write_text(f"import sys\n{body}\n")
    return Path(shutil.copy(SCRIPT, tmp_path / "debug"))


@pytest.mark.parametrize("data", ["right", "wrong"])
def test_the_order_of_a_whole_build_with_tiny_sources_that_are_cloned(data, tmp_path, build_tools):
    ucx, _ = repository(tmp_path / "ucx", {"autogen.sh": "#!/bin/sh\n:", "configure": CONFIGURE, "ucx_info": UCX_INFO})
    subprocess.run(f"cd {ucx} && mkdir contrib && mv configure contrib/configure-release-mt && git add -A && "
                   "git -c user.name=t -c user.email=t@t commit -qm moved", shell=True, check=True)  # fmt: skip
    ucx_commit = subprocess.run(["git", "-C", ucx, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    nixl, nixl_commit = repository(tmp_path / "nixl", {
        "pyproject.toml": PYPROJECT, "backend.py": BACKEND, "api.py": NIXL_API,
        "meson_options.txt": "option('disable_gds_backend', type: 'boolean')"})  # fmt: skip
    body = "sys.exit('bytes differ')"
    if data == "right":
        body = "open(sys.argv[-1], 'w').write('{\"argv\": \"%s\"}' % sys.argv[1:])"
    # git takes the two clones from here instead.
    there = {f"GIT_CONFIG_KEY_{i}": f"url.file://{path}.insteadOf" for i, path in enumerate((ucx, nixl))} | {
        "GIT_CONFIG_VALUE_0": "https://github.com/openucx/ucx.git",
        "GIT_CONFIG_VALUE_1": "https://github.com/ai-dynamo/nixl.git", "GIT_CONFIG_COUNT": "2"}  # fmt: skip
    prefix = tmp_path / "prefix"
    done = build("--prefix", str(prefix), "--ucx-commit", ucx_commit, "--nixl-commit", nixl_commit, "--python", sys.executable,
                 "--with-cuda", "no", "--force", script=with_transfer(tmp_path, body), PATH=build_tools,
                 XDG_CACHE_HOME=str(tmp_path / "cache"), **there)  # fmt: skip
    assert not (tmp_path / "cache").exists(), "no wheel of an earlier build can come back"
    if data == "wrong":
        assert done.returncode == 1 and "bytes differ" in done.stderr and "verify-transfer failed with code 1" in done.stderr
        assert held(prefix) == {".build", ".lock"}
        return
    assert done.returncode == 0, done.stderr
    asked = json.loads((prefix / "logs/transfer.json").read_text())["argv"]
    assert asked.startswith("['--local', '--memory', 'cpu', '--json'")
    ask = f"source {prefix}/env.sh; ucx_info -v; echo $NIXL_PLUGIN_DIR; {sys.executable} -c 'import nixl; print(nixl.__file__)'"
    used = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.splitlines()
    assert used == ["# Library version: 9.9.9", f"{prefix}/python/.nixl_cu12.mesonpy.libs/plugins/",
                    f"{prefix}/python/nixl/__init__.py"]  # fmt: skip
    assert f"--env LD_LIBRARY_PATH={prefix}/lib" in done.stdout and f"{prefix}/wheels/*.whl" in done.stdout


def test_a_dry_run_prints_commands_and_writes_nothing(tmp_path):
    done = build("--dry-run", "--stack", "original", "--prefix", str(tmp_path / "prefix"), "--python", sys.executable,
                 "--with-cuda", "no")  # fmt: skip
    assert done.returncode == 0 and not (tmp_path / "prefix").exists()
    for commit in ("4b7a6ca8410f9cea0e15857233ecfeefdd863dde", "8f493f7e285ef84faa70775449adc757c1e63953"):
        assert commit in done.stdout
    assert "--env UCX_NET_DEVICES=all --json" in done.stdout, "UCX 1.20.0 cannot use TCP over loopback"
    syntax = subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True)
    assert syntax.returncode == 0, syntax.stderr


SHELL_SCRIPTS = [path for folder in (".", "debug", "packaging", "bm_results") for path in ROOT.glob(f"{folder}/*.sh")]
SHELL_SCRIPTS.append(ROOT / ".ci/run")


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_clean(path):
    done = subprocess.run([Path(sys.executable).with_name("shellcheck"), path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
