#!/usr/bin/env bash
# h200x2_lengths: For which ISL:OSL, from 8000:50 to 500:1000, 1P:1D beats two collocated replicas of TP1, at which TPOT and TTFT.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 2
python debug/doctor.py --quick --brief

# 1: 2xtp1, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_lengths_tokens.json
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 5000 --osl 250 -c 4,16,32 --block 1 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 500 --osl 1000 -c 4,16,32 --block 1 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 8000 --osl 50 -c 4,16,32 --block 1 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 2000 --osl 500 -c 4,16,32 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
