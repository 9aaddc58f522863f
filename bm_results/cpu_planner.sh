#!/usr/bin/env bash
# cpu_planner: How far predictions of 2xtp1, by a model fitted to the other three layouts, are from what 2xtp1 does.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0
python debug/doctor.py --quick --brief

# 1: 1xtp1
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --save bm_results/cpu_planner_tokens.json
./run_bm.sh -e cpu_planner_1xtp1 --isl 2000 --osl 32 -c 1,2,4,8 -n 40 --repeats 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: 1xtp2
python launch_gptoss.py --mode collocated --layout 1xtp2 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
./run_bm.sh -e cpu_planner_1xtp2 --isl 2000 --osl 32 -c 1,2,4,8 -n 40 --repeats 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: pack_p1xtp1-d1xtp1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --against bm_results/cpu_planner_tokens.json
./run_bm.sh -e cpu_planner_pack_p1xtp1-d1xtp1 --isl 2000 --osl 32 -c 1,2,4,8 -n 40 --tokens bm_results/cpu_planner_tokens.json --repeats 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: 2xtp1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
./run_bm.sh -e cpu_planner_2xtp1 --isl 2000 --osl 32 -c 1,2,4,8 -n 40 --repeats 1 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-tiny_itl2000_otl32_mixed_cpu_planner_1xtp1 bm_results/gpt-oss-tiny_itl2000_otl32_mixed_cpu_planner_1xtp2 bm_results/gpt-oss-tiny_itl2000_otl32_mixed_cpu_planner_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-tiny_itl2000_otl32_mixed_cpu_planner_2xtp1 --gpus-per-node 2 --show-tables --plot-path bm_results/cpu_planner.png
