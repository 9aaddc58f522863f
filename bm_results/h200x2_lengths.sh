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

# 2: 2xtp1, block 2
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_lengths_tokens.json
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 5000 --osl 250 -c 4,16,32 --block 2 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 500 --osl 1000 -c 4,16,32 --block 2 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 8000 --osl 50 -c 4,16,32 --block 2 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_2xtp1 --isl 2000 --osl 500 -c 4,16,32 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 3: pack_p1xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_lengths_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_lengths_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,16,32 --transport cuda_ipc --tokens bm_results/h200x2_lengths_tokens.json --block 2 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_pack_p1xtp1-d1xtp1 --isl 500 --osl 1000 -c 4,16,32 --transport cuda_ipc --tokens bm_results/h200x2_lengths_tokens.json --block 2 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_pack_p1xtp1-d1xtp1 --isl 8000 --osl 50 -c 4,16,32 --transport cuda_ipc --tokens bm_results/h200x2_lengths_tokens.json --block 2 --results-dir bm_results
./run_bm.sh -e h200x2_lengths_pack_p1xtp1-d1xtp1 --isl 2000 --osl 500 -c 4,16,32 --transport cuda_ipc --tokens bm_results/h200x2_lengths_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl500_otl1000_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl8000_otl50_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl2000_otl500_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl500_otl1000_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl8000_otl50_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl2000_otl500_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 --gpus-per-node 2 --show-decision --show-blocks --figure lengths --plot-path bm_results/h200x2_lengths_1.png
python viz.py --exps bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl500_otl1000_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl8000_otl50_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl2000_otl500_mixed_h200x2_lengths_2xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl500_otl1000_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl8000_otl50_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl2000_otl500_mixed_h200x2_lengths_pack_p1xtp1-d1xtp1 --gpus-per-node 2 --log-concurrency --latency-mode first_token --show-decision --plot-path bm_results/h200x2_lengths_2.png
