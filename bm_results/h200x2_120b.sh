#!/usr/bin/env bash
# h200x2_120b: Whether TPOT and TTFT want different TP, and what PD makes of it, for gpt-oss-120b's shape on two H200s.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 2
python debug/doctor.py --quick --brief

# 1: 2xtp1, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_120b_tokens.json
./run_bm.sh -e h200x2_120b_2xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: pack_p1xtp1-d1xtp1, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_120b_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_120b_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --transport cuda_ipc --tokens bm_results/h200x2_120b_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: 1xtp2, block 2
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
./run_bm.sh -e h200x2_120b_1xtp2 --isl 5000 --osl 250 -c 4,8,16,24,32 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 4: pack_p1xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_120b_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_120b_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --transport cuda_ipc --tokens bm_results/h200x2_120b_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 5: 2xtp1, block 3
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_120b_tokens.json
./run_bm.sh -e h200x2_120b_2xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 6: 1xtp2, block 3
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
./run_bm.sh -e h200x2_120b_1xtp2 --isl 5000 --osl 250 -c 4,8,16,24,32 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 7: pack_p1xtp1-d1xtp1, block 3
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_120b_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_120b_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --transport cuda_ipc --tokens bm_results/h200x2_120b_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 8: 2xtp1, block 4
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_120b_tokens.json
./run_bm.sh -e h200x2_120b_2xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --block 4 --results-dir bm_results
python launch_gptoss.py --stop

# 9: pack_p1xtp1-d1xtp1, block 4
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_120b_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_120b_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,8,16,24,32 --transport cuda_ipc --tokens bm_results/h200x2_120b_tokens.json --block 4 --results-dir bm_results
python launch_gptoss.py --stop

# 10: 1xtp2, block 4
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
./run_bm.sh -e h200x2_120b_1xtp2 --isl 5000 --osl 250 -c 4,8,16,24,32 --block 4 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_120b_2xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_120b_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x2_120b_1xtp2 --gpus-per-node 2 --show-itl --show-tables --show-stalls --show-blocks --plot-path bm_results/h200x2_120b.png
