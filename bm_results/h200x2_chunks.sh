#!/usr/bin/env bash
# h200x2_chunks: At which largest step two collocated replicas, or one of TP2, have stalls as short as 1P:1D's, and which of them then has more requests/s.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 2
python debug/doctor.py --quick --brief

# 1: 2xtp1_step8192, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
python -m pdbench.gates --save bm_results/h200x2_chunks_tokens.json
./run_bm.sh -e h200x2_chunks_2xtp1_step8192 --isl 5000 --osl 250 -c 2,8,16,32 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: 2xtp1_step1024, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=1024 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
./run_bm.sh -e h200x2_chunks_2xtp1_step1024 --isl 5000 --osl 250 -c 2,8,16,32 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: 2xtp1_step512, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=512 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
./run_bm.sh -e h200x2_chunks_2xtp1_step512 --isl 5000 --osl 250 -c 2,8,16,32 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: pack_p1xtp1-d1xtp1, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_chunks_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_chunks_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 2,8,16,32 --transport cuda_ipc --tokens bm_results/h200x2_chunks_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 5: 2xtp1_step1024, block 2
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=1024 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
./run_bm.sh -e h200x2_chunks_2xtp1_step1024 --isl 5000 --osl 250 -c 2,8,16,32 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 6: 2xtp1_step512, block 2
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=512 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
./run_bm.sh -e h200x2_chunks_2xtp1_step512 --isl 5000 --osl 250 -c 2,8,16,32 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 7: 1xtp2_step1024, block 2
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=1024
./run_bm.sh -e h200x2_chunks_1xtp2_step1024 --isl 5000 --osl 250 -c 2,8,16,32 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 8: pack_p1xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_chunks_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_chunks_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 2,8,16,32 --transport cuda_ipc --tokens bm_results/h200x2_chunks_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 9: 1xtp2_step1024, block 3
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=1024
./run_bm.sh -e h200x2_chunks_1xtp2_step1024 --isl 5000 --osl 250 -c 2,8,16,32 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 10: 2xtp1_step8192, block 3
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
python -m pdbench.gates --save bm_results/h200x2_chunks_tokens.json
./run_bm.sh -e h200x2_chunks_2xtp1_step8192 --isl 5000 --osl 250 -c 2,8,16,32 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 11: 1xtp2_step2048, block 3
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=2048
./run_bm.sh -e h200x2_chunks_1xtp2_step2048 --isl 5000 --osl 250 -c 2,8,16,32 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 12: 2xtp1_step1024, block 3
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --engine-arg max_num_batched_tokens=1024 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
./run_bm.sh -e h200x2_chunks_2xtp1_step1024 --isl 5000 --osl 250 -c 2,8,16,32 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_chunks_2xtp1_step8192 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_chunks_2xtp1_step1024 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_chunks_2xtp1_step512 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_chunks_1xtp2_step1024 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_chunks_1xtp2_step2048 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_chunks_pack_p1xtp1-d1xtp1 --gpus-per-node 2 --show-itl max --show-tables --show-blocks --show-sharing --plot-path bm_results/h200x2_chunks.png
