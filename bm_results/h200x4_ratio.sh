#!/usr/bin/env bash
# h200x4_ratio: Which P:D ratio is best at which load on four H200s, by TPOT, TTFT and throughput, and that the pool costs nothing.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 4
python debug/doctor.py --quick --brief

# 1: 4xtp1, block 1
python launch_gptoss.py --mode collocated --layout 4xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x4.yaml --timeout 600
python -m pdbench.gates --save bm_results/h200x4_ratio_tokens.json
./run_bm.sh -e h200x4_ratio_4xtp1 --isl 5000 --osl 250 -c 4,16,32,64 --block 1 --bm_results-dir bm_results
python launch_gptoss.py --stop

# 2: pack_p2xtp1-d2xtp1, block 1
python launch_gptoss.py --mode pd-pack --layout p2xtp1-d2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x4.yaml --timeout 600
python -m pdbench.gates --against bm_results/h200x4_ratio_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x4_ratio_pack_p2xtp1-d2xtp1 --isl 5000 --osl 250 -c 4,16,32,64 --transport cuda_ipc --tokens bm_results/h200x4_ratio_tokens.json --block 1 --bm_results-dir bm_results
python launch_gptoss.py --stop

# 3: pool_p2xtp1-d2xtp1, block 1
python launch_gptoss.py --mode pd-pool --layout p2xtp1-d2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x4.yaml --timeout 600
python -m pdbench.gates --against bm_results/h200x4_ratio_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x4_ratio_pool_p2xtp1-d2xtp1 --isl 5000 --osl 250 -c 4,16,32,64 --transport cuda_ipc --tokens bm_results/h200x4_ratio_tokens.json --block 1 --bm_results-dir bm_results

# 4: pool_p3xtp1-d1xtp1, block 1
python launch_gptoss.py --roles p3-d1
python -m pdbench.gates --against bm_results/h200x4_ratio_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x4_ratio_pool_p3xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,16,32,64 --transport cuda_ipc --tokens bm_results/h200x4_ratio_tokens.json --block 1 --bm_results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x4_ratio_4xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x4_ratio_pool_p2xtp1-d2xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x4_ratio_pool_p3xtp1-d1xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x4_ratio_pack_p2xtp1-d2xtp1 --gpus-per-node 4 --log-concurrency --show-itl --show-tables --show-blocks --show-sharing --plot-path bm_results/h200x4_ratio.png
