#!/usr/bin/env bash
# h200x2_first: Whether PD shortens TPOT and the worst stalls on two H200s, and what it does to throughput and TTFT.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 2
python debug/doctor.py --quick --brief

# 1: 2xtp1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save results/h200x2_first_tokens.json
./run_bm.sh -e h200x2_first_2xtp1 --isl 5000 --osl 250 -c 4,8,16,32,64 --repeats 1 --results-dir results
python launch_gptoss.py --stop

# 2: pack_p1xtp1-d1xtp1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against results/h200x2_first_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_first_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,8,16,32,64 --transport cuda_ipc --tokens results/h200x2_first_tokens.json --repeats 1 --results-dir results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_first_2xtp1 results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_first_pack_p1xtp1-d1xtp1 --gpus-per-node 2 --show-itl --show-tables --show-stalls --plot-path results/h200x2_first.png
