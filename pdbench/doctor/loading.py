"""Try whether NIXL's backends and the libraries below them load, in processes that may crash or hang."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

BACKENDS = ("UCX", "LIBFABRIC")
MAKE_AGENT = """
import sys
from nixl._api import nixl_agent, nixl_agent_config
nixl_agent("doctor", nixl_agent_config(backends=[])).create_backend(sys.argv[1])
print("LOADED", flush=True)
import os; os._exit(0)  # what happens at the end of a process is not the question
"""
LOAD = """
import ctypes, sys
for name in sys.argv[1:]:
    try:
        ctypes.CDLL(name)
        print(f"{name}\\t")
    except OSError as error:
        print(f"{name}\\t{error}")
"""


def backends(limit_s: float, names: tuple[str, ...] = BACKENDS) -> list[dict]:
    """Return the fields of a `facts.Backend` for each of `names`, loaded at the same time."""
    running = [(name, _start(MAKE_AGENT, name)) for name in names]
    return [{"name": name, **_outcome(process, limit_s)} for name, process in running]


def _start(code: str, *words: str) -> subprocess.Popen:
    # Ray hides the GPUs from tasks that ask for none; a transport's driver must see them.
    hidden = {"CUDA_VISIBLE_DEVICES"} if not os.environ.get("CUDA_VISIBLE_DEVICES") else set()
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.Popen([sys.executable, "-c", code, *words], env=env, stdin=subprocess.DEVNULL, text=True,
                            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def _outcome(process: subprocess.Popen, limit_s: float) -> dict:
    try:
        said, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"loads": False, "error": f"hangs: no answer within {limit_s:g} s"}
    if "LOADED" in said:
        return {"loads": True}
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    # NIXL's own log says more than the error that it raises at the end.
    words = [re.sub(r"^E\d+ \S+\s+\d+ ", "", line) for line in lines if re.match(r"E\d{4} ", line)][-1:] + lines[-1:]
    if process.returncode < 0:
        words.insert(0, f"crashes: ended by signal {-process.returncode}")
    return {"loads": False, "error": "; ".join(words)[:300] or "no words"}


def libraries() -> dict[str, str | None]:
    """Return what the loader said of each, None where it loads: EFA's, libfabric, and UCX's own EFA transport (`ucx-efa`)."""
    names = {"libefa.so.1": "libefa.so.1", "libfabric.so.1": "libfabric.so.1", "libhwloc.so.15": "libhwloc.so.15"}
    if plugin := _ucx_plugin():
        names["ucx-efa"] = str(plugin)
    said, _ = _start(LOAD, *names.values()).communicate(timeout=60)
    errors = dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
    found = {name: errors.get(path, "the loader crashed") or None for name, path in names.items()}
    return found if plugin else found | {"ucx-efa": "NIXL's UCX has no EFA transport"}


def _ucx_plugin() -> Path | None:
    for name in ("nixl-cu13", "nixl-cu12", "nixl"):
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if re.fullmatch(r"libuct_ib_efa\.so\.0", file.name):
                return Path(file.locate())
    return None
