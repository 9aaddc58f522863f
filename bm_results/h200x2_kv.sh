#!/usr/bin/env bash
# h200x2_kv: GB/s of KV transfers and their share of TTFT, by block size and with the layers of a block side by side (BLHNC).
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 2
python debug/doctor.py --quick --brief

# 1: pack_p1xtp1-d1xtp1, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_kv_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_kv_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,16 --transport cuda_ipc --tokens bm_results/h200x2_kv_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: pack_p1xtp1-d1xtp1_layers-together, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --env VLLM_KV_CACHE_LAYOUT=BLHNC
python -m pdbench.gates --against bm_results/h200x2_kv_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_kv_pack_p1xtp1-d1xtp1_layers-together --isl 5000 --osl 250 -c 4,16 --transport cuda_ipc --tokens bm_results/h200x2_kv_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: pack_p1xtp1-d1xtp1_block128, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg block_size=128
python -m pdbench.gates --against bm_results/h200x2_kv_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_kv_pack_p1xtp1-d1xtp1_block128 --isl 5000 --osl 250 -c 4,16 --transport cuda_ipc --tokens bm_results/h200x2_kv_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_kv_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_kv_pack_p1xtp1-d1xtp1_block128 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_kv_pack_p1xtp1-d1xtp1_layers-together --gpus-per-node 2 --log-concurrency --show-tables --plot-path bm_results/h200x2_kv_1.png
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_kv_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_kv_pack_p1xtp1-d1xtp1_block128 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_kv_pack_p1xtp1-d1xtp1_layers-together --gpus-per-node 2 --figure network --plot-path bm_results/h200x2_kv_2.png
