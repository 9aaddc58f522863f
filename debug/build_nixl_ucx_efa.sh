#!/usr/bin/env bash
# Build UCX and NIXL from source, at pinned commits, with EFA and CUDA where the machine has them, in a folder of their own.
set -euo pipefail
{ # read to its end before it runs: it may be pulled again while it builds

usage() {
  cat <<'END'
usage: debug/build_nixl_ucx_efa.sh [options]

  --stack NAME        current (default): UCX v1.21.0 b6a9d47 with NIXL v1.3.2 de8115c
                      original: UCX v1.20.0 4b7a6ca with NIXL 0.6.1 8f493f7, as in the study
  --prefix DIR        a folder of its own (default: ~/nixl-ucx-STACK)
  --with-efa DIR|no   rdma-core with EFA: DIR/include/infiniband/efadv.h (default: /usr if it has it)
  --with-cuda DIR|no  CUDA toolkit (default: $CUDA_HOME, else /usr/local/cuda, if complete)
  --jobs N            compilers at a time (default: all cores)
  --python PYTHON     the Python that NIXL is for, with torch and numpy (default: python3)
  --ucx-commit SHA    another commit than the stack's; also --nixl-commit
  --source-ucx DIR    a local checkout of that commit instead of a clone; also --source-nixl
                      (for a machine that cannot download: run `meson subprojects download` in NIXL's first)
  --unpinned          take the local sources as they are, whatever commit, changes or no git at all
  --ucx-only          UCX alone: shows what transports a build has on this machine
  --force             build although the prefix holds another build (kept until the new one is
                      verified), or although that Python has a NIXL wheel (which stays as it is)
  --dry-run           print the commands, run nothing

Nothing outside the prefix is written, and no Python is changed. A build that is there already is left alone. Two at
once into one prefix: the second waits, and finds it done. Logs are in PREFIX/.build/logs, after a success in PREFIX/logs.
END
}

name=build_nixl_ucx_efa
die() { echo "$name: error: $1" >&2; exit 2; }
say() { echo "$name: $*"; }

# ---- What is asked for

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stack=current prefix="" with_efa=auto with_cuda=auto jobs="" python=python3
ucx_commit="" nixl_commit="" source_ucx="" source_nixl="" unpinned="" ucx_only="" force="" dry_run=""
while (($#)); do
  option=${1#--} && option=${option//-/_}
  case $1 in
    -h | --help) usage; exit 0 ;;
    --unpinned | --ucx-only | --force | --dry-run) printf -v "$option" 1; shift ;;
    --stack | --prefix | --with-efa | --with-cuda | --jobs | --python | --ucx-commit | --nixl-commit | \
      --source-ucx | --source-nixl)
      [[ ${2:-} && $2 != -* ]] || die "option $1 needs a value: see --help"
      [[ $1 != --source-* ]] || set -- "$1" "$(realpath -m "$2")" "${@:3}"
      printf -v "$option" %s "$2"; shift 2 ;;
    *) die "unknown option $1: see --help" ;;
  esac
done

ucx_version="" nixl_version="" # what the build must report; another commit may report anything
case $stack in
  current) set -- 1.21.0 b6a9d47fccce849c28111f05a7fa8f1c930ff17d 1.3.2 de8115ca97d3f8fb63a4988e9b4d4a038b2e0f72 ;;
  original) set -- 1.20.0 4b7a6ca8410f9cea0e15857233ecfeefdd863dde 0.6.1 8f493f7e285ef84faa70775449adc757c1e63953 ;;
  *) die "--stack '$stack' is not current or original" ;;
esac
[[ $ucx_commit || ($unpinned && $source_ucx) ]] || ucx_version=$1
[[ $nixl_commit || ($unpinned && $source_nixl) ]] || nixl_version=$3
ucx_commit=${ucx_commit:-$2} nixl_commit=${nixl_commit:-$4}
[[ "$ucx_commit $nixl_commit" =~ ^[0-9a-f]{40}\ [0-9a-f]{40}$ ]] || die "a commit is named by all of its 40 hexadecimal digits"
[[ -z $unpinned || $source_ucx$source_nixl ]] || die "--unpinned goes with --source-ucx or --source-nixl"
[[ -z $ucx_only || -z $source_nixl ]] || die "--source-nixl does not go with --ucx-only"
jobs=${jobs:-$(nproc)}
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs '$jobs' is not a number of at least 1"
prefix=${prefix:-$HOME/nixl-ucx-$stack}
prefix=$(realpath -m "$prefix")
[[ $prefix =~ ^/[A-Za-z0-9._/+-]+$ ]] || die "--prefix '$prefix' goes into makefiles: it may hold letters, digits, . _ / + -"
found=$(command -v "$python") || die "--python '$python' is not there"
python=$(realpath -s "$found") # not what a virtual environment's link points to

# The commit of a local checkout, or with --unpinned what identifies its present state.
source_state() { # source_state OPTION DIR COMMIT
  local head
  [[ -d $2 ]] || die "$1 '$2': no such folder"
  if head=$(git -C "$2" rev-parse --verify -q HEAD 2>/dev/null) && [[ $(git -C "$2" rev-parse --show-prefix) == "" ]]; then
    [[ $unpinned || $head == "$3" ]] || die "$1 '$2' is at ${head:0:12}, not at ${3:0:12}: check that out, or add --unpinned"
    [[ $unpinned || -z $(git -C "$2" status --porcelain -uno) ]] || die "$1 '$2' has changes: stash them, or add --unpinned"
  elif [[ -z $unpinned ]]; then
    die "$1 '$2' is no git checkout, so its commit is unknown: add --unpinned to take it as it is"
  fi
  [[ $unpinned ]] || { echo "$head" && return; }
  echo "files-$(cd "$2" && find . -type f -not -path './.git/*' -printf '%P %s %T@\n' | sort | sha256sum | head -c 12)"
}
ucx=$ucx_commit nixl=$nixl_commit
[[ -z $source_ucx ]] || ucx=$(source_state --source-ucx "$source_ucx" "$ucx_commit")
[[ -z $source_nixl ]] || nixl=$(source_state --source-nixl "$source_nixl" "$nixl_commit")
[[ -z $ucx_only ]] || nixl=none

# ---- What the machine has

efa_device() { grep -qsx 0x1d0f /sys/class/infiniband/*/device/vendor; } # PCI vendor: Amazon
has_efa() { [[ -e $1/include/infiniband/efadv.h ]]; }
efa=$with_efa cuda=$with_cuda
if [[ $efa == auto ]]; then
  efa=no
  ! has_efa /usr || efa=/usr
  [[ $efa == /usr ]] || ! efa_device ||
    die "there is an EFA, but no headers for it: install libibverbs-dev (dnf: rdma-core-devel), or say --with-efa DIR or no"
elif [[ $efa != no ]]; then
  has_efa "$efa" || die "--with-efa '$efa' holds no include/infiniband/efadv.h"
  efa=$(realpath "$efa")
fi
gpu_device() { [[ -e /proc/driver/nvidia/version ]]; }
# Prints what is wrong with the toolkit in DIR, if anything. Toolkits from wheels have nothing to link for driver and NVML.
cuda_lacks() { # cuda_lacks DIR
  local probe what
  [[ -e $1/include/cuda.h && -x $1/bin/nvcc ]] || { echo "holds no include/cuda.h and bin/nvcc" && return; }
  command -v gcc >/dev/null || return 0 # that is reported below
  probe=$(mktemp)
  what=$(gcc -shared -o "$probe" -include cuda_runtime.h -include nvml.h "-I$1/include" "-L$1/lib64" "-L$1/lib64/stubs" \
    -x c /dev/null -lcuda -lcudart -lnvidia-ml 2>&1 | grep -m 1 -oE 'error: .*|cannot find -l[a-z-]*') || true
  rm -f "$probe"
  [[ -z $what ]] || echo "is incomplete: ${what#error: }"
}
if [[ $cuda == auto ]]; then
  cuda=${CUDA_HOME:-/usr/local/cuda}
  lacks=$(cuda_lacks "$cuda")
  [[ -z $lacks ]] || ! gpu_device || die "there is a GPU, but the CUDA toolkit '$cuda' $lacks: install it with cuda-driver-dev \
and cuda-nvml-dev, or say --with-cuda DIR or no"
  [[ -z $lacks || ! -e $cuda ]] || say "CUDA toolkit '$cuda' is left out: it $lacks" >&2
  [[ -z $lacks ]] || cuda=no
elif [[ $cuda != no ]]; then
  lacks=$(cuda_lacks "$cuda")
  [[ -z $lacks ]] || die "--with-cuda '$cuda' $lacks"
  cuda=$(realpath "$cuda")
fi

missing=()
need() { command -v "$1" >/dev/null || missing+=("$1 (apt-get install $2, or dnf install ${3:-$2})"); }
need gcc gcc; need g++ g++ gcc-c++; need make make; need flock util-linux
[[ $source_ucx && ($ucx_only || $source_nixl) ]] || need git git
[[ -x $source_ucx/configure ]] || { need autoreconf autoconf; need automake automake; need libtoolize libtool; }
if [[ -z $ucx_only ]]; then
  need pkg-config pkg-config pkgconf-pkg-config; need cmake cmake
  g++ -std=c++20 -x c++ -fsyntax-only /dev/null 2>/dev/null || missing+=("C++20 in g++ (11 or later)")
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))') || die "--python '$python' does not run"
  [[ -e $include/Python.h ]] || missing+=("Python.h of $python (python3-dev, or dnf: python3-devel, of its version)")
  for module in pip torch numpy; do # meson, ninja, pybind11: pip gets what NIXL's pyproject.toml demands, for the build alone
    "$python" -c "import importlib.util as i, sys; sys.exit(not i.find_spec('$module'))" ||
      missing+=("$module ($python -m pip install $module)")
  done
  [[ -e $here/test_nixl_connector_ray.py ]] || missing+=("test_nixl_connector_ray.py beside this script: it verifies the build")
fi
((${#missing[@]} == 0)) || { printf "$name: error: missing: %s\n" "${missing[@]}" >&2; [[ $dry_run ]] || exit 2; }

# ---- Whether to build at all: one at a time, never over something else

build=$prefix/.build logs=$prefix/.build/logs stamp=$prefix/.stamp
parts=(bin etc include lib libexec share python wheels logs env.sh) # what a build consists of
version=$([[ $ucx_only ]] || "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
wanted="ucx $ucx, nixl $nixl, efa $efa, cuda $cuda, python ${version:-none}"

if [[ -z $dry_run ]]; then
  mkdir -p "$prefix" 2>/dev/null && [[ -w $prefix ]] ||
    die "cannot write to $prefix: choose another --prefix, or make it yours once: sudo install -d -o $(id -un) $prefix"
  exec 9>"$prefix/.lock"
  flock -n 9 || { say "another build into $prefix is under way: waiting for it" && flock 9; }
  if [[ -e $prefix/.incomplete ]]; then
    say "clearing away what an interrupted run left in $prefix"
    rm -rf "${parts[@]/#/$prefix/}" "$stamp" "$prefix/.incomplete"
  fi
  if [[ -e $stamp && $(<"$stamp") == "$wanted" ]]; then
    say "nothing to do: $prefix holds this build already (use it: source $prefix/env.sh)"
    exit 0
  fi
  found=$(find "$prefix" -mindepth 1 -maxdepth 1 ! -name .build ! -name .lock -printf '%f ')
  if [[ -e $stamp ]]; then
    [[ $force ]] || die "$prefix holds another build ($(<"$stamp")): choose another --prefix, or --force replaces it"
  elif [[ $found ]]; then
    die "$prefix holds something that this script did not build ($(cut -c -60 <<<"$found")): choose another --prefix"
  fi
  wheels=$([[ $ucx_only ]] || "$python" -c 'import importlib.metadata as m
print(*sorted({f"{d.name} {d.version}" for d in m.distributions() if d.name.lower().startswith("nixl")}), sep=", ")')
  [[ -z $wheels || $force ]] ||
    die "$python has $wheels, with a UCX of its own: name another --python, uninstall it, or add --force to build beside it"
  rm -rf "$build" && mkdir -p "$logs"
fi

# ---- Steps: a command each, its output in a log of its own

count=0 log=""
step() { # step NAME COMMAND...
  local begun=$SECONDS what=$1
  shift
  [[ -z $dry_run ]] || { printf '%q ' "$@" && echo && return; }
  count=$((count + 1))
  log=$logs/$(printf %02d "$count")-$what.log
  echo "$what ..."
  { printf '%q ' "$@" && echo && "$@"; } >"$log" 2>&1 || fail "$what failed with code $?"
  echo "$what: $((SECONDS - begun)) s"
}

fail() {
  rm -rf "$build/stage"
  { echo "--- last lines of $log" && tail -n 15 "$log"; } >&2
  echo "$name: error: $1: see $log; nothing was installed, the sources are in $build" >&2
  exit 1
}
exec 8>&2 # during a step, 2 is its log
trap 'echo "$name: interrupted; nothing was installed" >&8; exit 130' INT TERM

get_source() { # get_source ucx|nixl LOCAL URL COMMIT
  local into=$build/$1
  [[ -z $2 ]] || { step "$1-copy" cp -a "$2/." "$into" && return; }
  step "$1-init" git init -q "$into"
  step "$1-fetch" git -C "$into" fetch -q --depth 1 "$3" "$4"
  step "$1-checkout" git -C "$into" checkout -q "$4"
}

# ---- UCX, with the options that NIXL's README and its release build give it

# It is made for the prefix, which its libraries know of, but put into a stage: the prefix gets it when all is verified.
stage=$build/stage staged=$build/stage$prefix
build_ucx() {
  local options=(--prefix="$prefix" --enable-shared --disable-static --disable-doxygen-doc --enable-optimizations
    --enable-cma --enable-devel-headers --enable-mt --without-java --without-go)
  local verbs=$efa # UCX looks for libefa where it looks for libibverbs
  [[ $efa != no || ! -e /usr/include/infiniband/verbs.h ]] || verbs=/usr
  [[ $verbs == no ]] && options+=(--without-verbs) || options+=(--with-verbs="$verbs" --with-dm)
  [[ $efa == no ]] && options+=(--without-efa) || options+=(--with-efa)
  [[ $cuda == no ]] && options+=(--without-cuda) || options+=(--with-cuda="$cuda")
  get_source ucx "$source_ucx" https://github.com/openucx/ucx.git "$ucx_commit"
  [[ $source_ucx && -x $source_ucx/configure ]] || step ucx-autogen env -C "$build/ucx" ./autogen.sh
  # With CUDA UCX 1.21 needs this submodule, without which its autogen.sh goes on.
  [[ $cuda == no || ! -d $build/ucx/external/gpunetio || $(ls -A "$build/ucx/external/gpunetio") ]] ||
    fail "UCX needs its submodule external/gpunetio for CUDA (git submodule update --init), which is not there"
  local configure=./contrib/configure-release-mt
  [[ -z $source_ucx || -x $source_ucx/contrib/configure-release-mt ]] || configure=./configure
  step ucx-configure env -C "$build/ucx" "$configure" "${options[@]}"
  step ucx-make make -C "$build/ucx" -j "$jobs"
  step ucx-install make -C "$build/ucx" install DESTDIR="$stage"
}

# ---- NIXL: a wheel of its libraries and bindings against that UCX, and the wheel of the package `nixl` that picks them

build_nixl() {
  local option options=("-Cbuild-dir=$build/nixl-build" "-Ccompile-args=-j$jobs")
  options+=("-Csetup-args=-Ducx_path=$staged" -Csetup-args=-Dwerror=false) # a newer compiler warns of more
  # NIXL 1.3.2 demands one version of torch to build an example that is not built here: gigabytes, of CUDA's libraries too.
  local edit='/^requires = /s/"torch[^"]*"\(, *\)\?//' environment=()
  get_source nixl "$source_nixl" https://github.com/ai-dynamo/nixl.git "$nixl_commit"
  # GDS reads files, and wants cuFile beside CUDA. Not every version has all of these.
  for option in build_tests=false build_examples=false disable_gds_backend=true; do
    grep -qs "option('${option%=*}'" "$build/nixl/meson_options.txt" && options+=("-Csetup-args=-D$option")
  done
  if [[ $cuda != no ]]; then
    options+=("-Csetup-args=-Dcudapath_inc=$cuda/include" "-Csetup-args=-Dcudapath_lib=$cuda/lib64")
    # Of the two names that NIXL's package looks for, the one of torch's CUDA.
    [[ $("$cuda/bin/nvcc" --version) != *"release 13."* ]] || edit+='; s/nixl-cu12/nixl-cu13/'
    environment=("PATH=$build/python/bin:$cuda/bin:$PATH")
  else # meson and NIXL look for a toolkit of their own accord
    environment=("PATH=$build/python/bin:$PATH" "CUDA_HOME=$build/no-cuda" "CUDA_PATH=$build/no-cuda")
  fi
  step nixl-pyproject sed -i "$edit" "$build/nixl/pyproject.toml"
  # EFA's installer puts libfabric here: with it NIXL gets its LIBFABRIC backend, too.
  [[ ! -e /opt/amazon/efa/include/rdma/fabric.h ]] || options+=(-Csetup-args=-Dlibfabric_path=/opt/amazon/efa)
  local meta=$build/nixl-build/src/bindings/python/nixl-meta
  # Without pip's cache, which would bring back the wheel that an earlier build left in a folder of that name.
  local pip_wheel=("$python" -m pip wheel --no-cache-dir --no-deps --wheel-dir "$staged/wheels")
  # The build calls `python`, which must be the one that NIXL is for.
  step nixl-python "$python" -m venv --without-pip "$build/python"
  step nixl-wheel env "${environment[@]}" "LDFLAGS=-Wl,-rpath,$prefix/lib -Wl,-rpath-link,$staged/lib" \
    "${pip_wheel[@]}" "${options[@]}" "$build/nixl"
  # In later versions `nixl` is a wheel of its own, which NIXL's build makes only where there is uv.
  [[ ! -e $meta/pyproject.toml && ! ($dry_run && $stack == current) ]] ||
    step nixl-meta "${pip_wheel[@]}" "$meta"
  step nixl-unpack "$python" -m pip install -q --no-deps --no-index --find-links "$staged/wheels" --target "$staged/python" \
    "$staged"/wheels/*.whl
}

# ---- Verify, where it is staged

# shellcheck disable=SC2016 # Python, not shell
loads='import os, sys, nixl._api as api
api.nixl_agent("build", api.nixl_agent_config(backends=["UCX"]))
used = {line.split()[-1] for line in open("/proc/self/maps") if "/libucp" in line}
print("NIXL", sys.modules["nixl"].__file__, "with UCX", *used)
sys.exit(not used or any(not path.startswith(os.path.realpath(sys.argv[1]) + "/") for path in used))'

seen() { [[ $dry_run ]] || sed -n "s/^#* *$1 *//p" "$log" | sort -u | paste -sd' '; } # what the last step said of it
verify() {
  local version found devices=()
  local with=("LD_LIBRARY_PATH=$staged/lib:${LD_LIBRARY_PATH:-}" "UCX_MODULE_DIR=$staged/lib/ucx" "PYTHONPATH=$staged/python")
  step verify-ucx-version env "${with[@]}" "$staged/bin/ucx_info" -v
  version=$(seen '\(Library version:\|Version\)') # the latter before UCX 1.14
  [[ $dry_run || -z $ucx_version || $version == "$ucx_version" ]] || fail "UCX says version '$version', not $ucx_version"
  # This one finds "no route" over loopback, to which the benchmark keeps a transfer within one machine.
  [[ ${version:-$ucx_version} != 1.20.0 ]] || devices=(--env UCX_NET_DEVICES=all)
  step verify-ucx-transports env "${with[@]}" "$staged/bin/ucx_info" -d
  found=$(seen "Transport:")
  [[ $dry_run || $efa == no || $found == *srd* ]] || ! efa_device || fail "UCX finds no srd, although there is an EFA"
  [[ $dry_run ]] || say "UCX ${version:-of unknown version}; transports on this machine: ${found:-none}"
  [[ -z $ucx_only ]] || return 0
  step verify-nixl-version env "${with[@]}" "$python" -c 'import importlib.metadata as m; print("NIXL", m.version("nixl"))'
  version=$(seen NIXL)
  [[ $dry_run || -z $nixl_version || $version == "$nixl_version" ]] || fail "NIXL says version '$version', not $nixl_version"
  step verify-nixl-loads-this-ucx env "${with[@]}" "$python" -c "$loads" "$staged"
  step verify-transfer env "${with[@]}" "$python" "$here/test_nixl_connector_ray.py" \
    --local --memory cpu "${devices[@]}" --json "$logs/transfer.json"
  [[ $dry_run ]] || say "NIXL $version; data of a KV transfer verified: $prefix/logs/transfer.json"
}

say "UCX ${ucx:0:18}, NIXL ${nixl:0:18}; EFA $efa, CUDA $cuda; into $prefix" >&2
build_ucx
[[ $ucx_only ]] || build_nixl
verify
[[ -z $dry_run ]] || exit 0

# ---- Install: files change places within one file system; a run that dies in between is cleared away by the next

plugins=$(find "$staged" -name libplugin_UCX.so -printf "$prefix/%P" -quit | sed 's/[^/]*$//')
cat >"$staged/env.sh" <<END
export PATH=$prefix/bin\${PATH:+:\$PATH} LD_LIBRARY_PATH=$prefix/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
${plugins:+export PYTHONPATH=$prefix/python\${PYTHONPATH:+:\$PYTHONPATH\} NIXL_PLUGIN_DIR=$plugins}
END
trap '' INT TERM
touch "$prefix/.incomplete"
rm -rf "${parts[@]/#/$prefix/}" "$stamp"
mv "$staged"/* "$prefix/"
mv "$logs" "$prefix/logs"
echo "$wanted" >"$stamp"
rm -rf "$prefix/.incomplete" "$build"
say "done in $SECONDS s. To use it in a shell: source $prefix/env.sh"
[[ $ucx_only ]] || say "in engines: launch_gptoss.py ... --env LD_LIBRARY_PATH=$prefix/lib" \
  "--env PYTHONPATH=$prefix/python --env NIXL_PLUGIN_DIR=$plugins"
[[ $ucx_only ]] || say "in a Python for good: $python -m pip install --force-reinstall --no-deps $prefix/wheels/*.whl"
exit 0; }
