#!/usr/bin/env bash
# The whole study at miniature scale, on a machine with no GPU: read it from top to bottom.
#
# Three arms of a tiny gpt-oss, each of two engines with one core each: collocated, then prefill and
# decode on one node, then on two. What to see: in the collocated arm a neighbour's prefill stalls the
# tokens of those who decode; in the PD arms it does not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stack=(--model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600)
results=${RESULTS_DIR:-demo_results}
workload=(--itl 2500 --otl 32 -c 1,2,4,8 --results-dir "$results" --force)
tokens=.cache/demo_tokens.json
begun=$SECONDS

say() { echo; echo "== $* [$((SECONDS - begun)) s]"; }

# Whatever happens, nothing that was started stays.
trap 'python -m pdbench.local_cluster stop >/dev/null' EXIT
trap 'exit 130' INT TERM

say "A Ray cluster of a head and two worker nodes on this machine"
python -m pdbench.local_cluster start --workers 2

say "Arm 1 of 3: two collocated engines"
python launch_gptoss.py --collocated --layout 2xtp1 "${stack[@]}"
python -m pdbench.gates --save "$tokens"
./run_bm.sh --smoke
./run_bm.sh -e baseline_2xtp1 "${workload[@]}"
python launch_gptoss.py --stop

say "Arm 2 of 3: one prefill and one decode engine on one node"
python launch_gptoss.py --pd-pack --layout p1xtp1-d1xtp1 "${stack[@]}"
python -m pdbench.gates --against "$tokens"
./run_bm.sh -e pack_p1xtp1-d1xtp1 "${workload[@]}"
python launch_gptoss.py --stop

say "Arm 3 of 3: one prefill and one decode engine on two nodes"
python launch_gptoss.py --pd-spread --layout p1xtp1-d1xtp1 "${stack[@]}"
python -m pdbench.gates --against "$tokens"
./run_bm.sh -e spread_p1xtp1-d1xtp1 "${workload[@]}"

say "The figure and the table"
prefix=$results/gpt-oss-tiny_itl2500_otl32_mixed
arms=("$prefix"_baseline_2xtp1 "$prefix"_pack_p1xtp1-d1xtp1 "$prefix"_spread_p1xtp1-d1xtp1)
# One node of this machine is its two engine cores.
python viz.py --exps "${arms[@]}" --gpus-per-node 2 --itl --show-tables --plot-path "$results/cpu_demo.png"
python -m pdbench.stalls "${arms[@]}"
say "Done"
