#!/usr/bin/env bash
# Install what packaging/offline.py packed, on a machine that reaches no package index.
set -euo pipefail

usage() {
  cat <<'END'
usage: bash install.sh [--python PYTHON] VENV

Makes VENV beside what PYTHON (default: python3) has installed, from the wheels that lie beside this script. Then:
  . VENV/bin/activate; git clone project.bundle NAME
END
}

die() { echo "install: error: $1" >&2; exit 2; }

python=python3
while [[ ${1:-} == -* ]]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --python) python=${2:?--python needs a value}; shift 2 ;;
    *) die "unknown option $1: see --help" ;;
  esac
done
venv=${1:-}
[[ $venv && $# == 1 ]] || { usage >&2; exit 2; }
[[ ! -e $venv ]] || die "$venv is there already: name another folder"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v "$python" >/dev/null || die "$python is not there"
wheels=$here/wheels
if [[ ! -d $wheels ]]; then
  compgen -G "$here/wheels.[0-9]*" >/dev/null || die "no wheels lie beside this script"
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  cat "$here"/wheels.[0-9]* | tar xf - -C "$unpacked"
  wheels=$unpacked/wheels
fi
wanted=$(find "$wheels" -name 'vllm-*.whl' | head -n 1)
[[ $wanted ]] || die "the wheels are incomplete: no vLLM is among them"

# set -e alone would end in silence; and a half-made environment would be taken for one.
failed() { echo "install: error: line $1 of $0 failed: see above; $venv is removed" >&2; rm -rf "$venv"; }
trap 'failed $LINENO' ERR
"$python" -m venv "$venv"
image=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
echo "$image" >"$site/image.pth" # what the image has comes after ours
"$venv/bin/python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --ignore-installed "$wheels"/*.whl
# Else every process of every engine compiles what it imports.
echo "install: compiling to bytecode"
"$venv/bin/python" -m compileall -q -j 0 "$site" >/dev/null 2>&1 || true
# CUDA's libraries of the image are found by their place, ours first.
for lib in "$site"/nvidia/*/lib "$image"/nvidia/*/lib; do
  [[ ! -d $lib ]] || libraries=${libraries:+$libraries:}$lib
done
[[ ! ${libraries:-} ]] || echo "export LD_LIBRARY_PATH=$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" >>"$venv/bin/activate"
# shellcheck disable=SC1091 # made just now
. "$venv/bin/activate"
cd / && python - <<'END'
from importlib.metadata import version
import torch, vllm, ray, nixl  # fails here, not in an engine
print("install:", ", ".join(f"{n} {version(n)}" for n in ("torch", "vllm", "ray", "nixl")), "CUDA", torch.version.cuda,
      torch.cuda.device_count(), "GPUs")
END
echo "install: done; . $venv/bin/activate"
