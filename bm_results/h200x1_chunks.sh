#!/usr/bin/env bash
# h200x1_chunks: How much shorter the longest inter-token latency is with smaller steps, and what that costs in TTFT, TPOT and requests/s: whether a collocated replica can have PD's smoothness.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 1
python debug/doctor.py --quick --brief

# 1: bare_1xtp1, block 1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
./run_bm.sh -e h200x1_chunks_bare_1xtp1 --isl 5000 --osl 250 -c 4,8,16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: bare_1xtp1_step1024, block 1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg max_num_batched_tokens=1024
./run_bm.sh -e h200x1_chunks_bare_1xtp1_step1024 --isl 5000 --osl 250 -c 4,8,16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: bare_1xtp1_step512, block 1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg max_num_batched_tokens=512
./run_bm.sh -e h200x1_chunks_bare_1xtp1_step512 --isl 5000 --osl 250 -c 4,8,16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: bare_1xtp1_step2048, block 1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg max_num_batched_tokens=2048
./run_bm.sh -e h200x1_chunks_bare_1xtp1_step2048 --isl 5000 --osl 250 -c 4,8,16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 5: bare_1xtp1_step512, block 2
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg max_num_batched_tokens=512
./run_bm.sh -e h200x1_chunks_bare_1xtp1_step512 --isl 5000 --osl 250 -c 4,8,16 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_chunks_bare_1xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_chunks_bare_1xtp1_step2048 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_chunks_bare_1xtp1_step1024 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_chunks_bare_1xtp1_step512 --gpus-per-node 1 --log-concurrency --show-itl max --show-tables --plot-path bm_results/h200x1_chunks.png
