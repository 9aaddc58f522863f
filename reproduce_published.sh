#!/usr/bin/env bash
# The public study's figures, drawn from its own results, with what the audit finds in these and its claims' verdicts.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: ./reproduce_published.sh DIR [OUT]

  DIR   a clone of the public study's repository, or any folder that holds its result folders
  OUT   folder for the figures, audit.txt, claims.txt and claims.json (default: published_figures)

Needs requirements-viz.txt only. PYTHON names the interpreter (default: .venv/bin/python, else python3).
EOF
}

die() { echo "reproduce_published: error: $1" >&2; exit 2; }

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  "") die "DIR is missing: see --help" ;;
esac
(($# <= 2)) || die "unexpected '$3': see --help"
[[ -d $1 ]] || die "$1: no such folder"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
results=$(cd "$1" && pwd)
out=${2:-published_figures}
python=${PYTHON:-$here/.venv/bin/python}
[[ -x $python ]] || python=$(command -v "${PYTHON:-python3}") || die "no Python: set PYTHON"

# The study's result folders, wherever in the clone they lie.
mapfile -t all < <(find "$results" -type d -name 'gptoss_itl*_otl*_*' -not -path '*/.git/*' | sort)
((${#all[@]})) || die "$1: holds none of the study's result folders (gptoss_itl*_otl*_*)"
# What cannot be read is named and left out: layouts that this notation does not have, folders with figures only.
mapfile -t all < <(PYTHONPATH="$here" "$python" - "${all[@]}" <<'EOF'
import sys
from pdbench.read.results import ResultError, read_results

for folder in sys.argv[1:]:
    try:
        read_results([folder], details=False)
        print(folder)
    except ResultError as error:
        print(f"reproduce_published: left out: {error}", file=sys.stderr)
EOF
)
((${#all[@]})) || die "$1: none of the study's result folders can be read"
mkdir -p "$out"

# draw FIGURE "OPTIONS" NAME...: each NAME is what follows the workload in a folder's name
draw() {
  local figure=$1 name; local -a options folders=(); read -ra options <<<"$2"; shift 2
  for name; do
    local found="" folder
    for folder in "${all[@]}"; do [[ ${folder##*/} == "gptoss_itl5000_otl250_mixed_$name" ]] && found=$folder; done
    [[ $found ]] || { echo "reproduce_published: $figure: no folder for $name, left out" >&2; continue; }
    folders+=("$found")
  done
  ((${#folders[@]})) || { echo "reproduce_published: $figure: not drawn" >&2; return; }
  "$python" "$here/viz.py" --plot-path "$out/$figure" "${options[@]}" --exps "${folders[@]}"
}

# 1. Each phase wants its own TP size.
draw 1_tp_baselines.png "--log-concurrency" 8xtp1 baseline_4xtp2 baseline_2xtp4 1xtp8
# 2. The P:D ratio decides. The folder called pd_p2xtp2-d1xtp2 is the 2P:2D run (see audit.txt): under its true name here.
draw 2_ratio_ptp2_dtp2.png "" baseline_4xtp2 pd_p3xtp2-d1xtp2 2xtp2-1xtp2 2xtp2-2xtp2 pd_p1xtp2-d1xtp2 pd_p1xtp2-d2xtp2 pd_p1xtp2-d3xtp2
draw 2_ratio_ptp1_dtp2.png "" baseline_4xtp2 2xtp1-1xtp2 1xtp1-1xtp2 1xtp1-2xtp2
draw 2_ratio_dtp4.png "" baseline_2xtp4 pack_p1xtp4-d1xtp4 pd_p2xtp2-d1xtp4 1xtp2-1xtp4 1xtp1-1xtp4
draw 2_best_on_one_node.png "" baseline_2xtp4 baseline_4xtp2 1xtp8 pack_p1xtp4-d1xtp4 2xtp2-2xtp2 pd_p1xtp2-d1xtp2 pd_p1xtp2-d2xtp2 pd_p1xtp2-d3xtp2
# 3. The network must be the fast one; debug logging costs throughput.
draw 3_network.png "--log-latency" baseline_2xtp4 pack_p1xtp4-d1xtp4 spread_srd_1xtp4-1xtp4 spread_tcp_p1xtp4-d1xtp4
draw 3_debug_logging.png "" pack_p1xtp4-d1xtp4 1xtp4-1xtp4-pack-wo-verbosity 1xtp4-1xtp4-spread-libfabric

"$python" "$here/viz.py" --audit --exps "${all[@]}" >"$out/audit.txt"
echo "$out/audit.txt: $(tail -n 1 "$out/audit.txt")"
"$python" "$here/check_claims.py" "$here/configs/claims/study.yaml" --results "$results" --json "$out/claims.json" >"$out/claims.txt"
grep -E '^(HOLDS|PARTLY|FAILS|NO-DATA) ' "$out/claims.txt"
echo "$out/claims.txt: $(tail -n 1 "$out/claims.txt")"
