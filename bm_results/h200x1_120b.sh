#!/usr/bin/env bash
# h200x1_120b: What one replica of TP1 does at half the load of two, with prefill alone, decode alone, and without Ray Serve: twice that is what two replicas have that share evenly.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 1
python debug/doctor.py --quick --brief

# 1: 1xtp1, block 1
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
./run_bm.sh -e h200x1_120b_1xtp1 --isl 5000 --osl 250 -c 2,4,8,12,16 --block 1 --results-dir bm_results

# 2: prefill-only_1xtp1, block 1
./run_bm.sh -e h200x1_120b_prefill-only_1xtp1 --isl 5000 --osl 250 --mode prefill-only -c 2,4,8,12,16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: decode-only_1xtp1, block 1
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --decode-bench
./run_bm.sh -e h200x1_120b_decode-only_1xtp1 --isl 5000 --osl 250 --mode decode-only -c 2,4,8,12,16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: 1xtp1, block 2
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
./run_bm.sh -e h200x1_120b_1xtp1 --isl 5000 --osl 250 -c 2,4,8,12,16 --block 2 --results-dir bm_results

# 5: prefill-only_1xtp1, block 2
./run_bm.sh -e h200x1_120b_prefill-only_1xtp1 --isl 5000 --osl 250 --mode prefill-only -c 2,4,8,12,16 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 6: 1xtp1, block 3
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
./run_bm.sh -e h200x1_120b_1xtp1 --isl 5000 --osl 250 -c 2,4,8,12,16 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_120b_1xtp1 --gpus-per-node 1 --log-concurrency --show-tables --plot-path bm_results/h200x1_120b_mixed.png
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_prefill-only_h200x1_120b_prefill-only_1xtp1 --gpus-per-node 1 --log-concurrency --show-tables --latency-mode first_token --plot-path bm_results/h200x1_120b_prefill-only.png
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_decode-only_h200x1_120b_decode-only_1xtp1 --gpus-per-node 1 --log-concurrency --show-tables --throughput-metric output --plot-path bm_results/h200x1_120b_decode-only.png
