#!/usr/bin/env bash
# cpu_shift: Three engines under load that turns from 2000:8 to 64:96 and back, at fixed P:D ratios, collocated, and moved by a controller.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0
python debug/doctor.py --quick --brief

# 1: 3xtp1, block 1
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_3xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: pool_p1xtp1-d2xtp1, block 1
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 1 --results-dir bm_results

# 3: pool_p2xtp1-d1xtp1, block 1
python launch_gptoss.py --roles p2-d1
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p2xtp1-d1xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: pool_p1xtp1-d2xtp1_control, block 1
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
python launch_gptoss.py --control ttft=3000,tpot=60
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1_control --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 5: pool_p2xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-pool --layout p2xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p2xtp1-d1xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 2 --results-dir bm_results

# 6: pool_p1xtp1-d2xtp1, block 2
python launch_gptoss.py --roles p1-d2
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 7: 3xtp1, block 2
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_3xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 8: pool_p1xtp1-d2xtp1_control, block 2
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
python launch_gptoss.py --control ttft=3000,tpot=60
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1_control --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 9: pool_p1xtp1-d2xtp1_control, block 3
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
python launch_gptoss.py --control ttft=3000,tpot=60
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1_control --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 10: 3xtp1, block 3
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_3xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 11: pool_p1xtp1-d2xtp1, block 3
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 3 --results-dir bm_results

# 12: pool_p2xtp1-d1xtp1, block 3
python launch_gptoss.py --roles p2-d1
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p2xtp1-d1xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 1 --tokens bm_results/cpu_shift_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 13: 3xtp1, block 1
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_3xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 14: pool_p1xtp1-d2xtp1, block 1
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 1 --results-dir bm_results

# 15: pool_p2xtp1-d1xtp1, block 1
python launch_gptoss.py --roles p2-d1
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p2xtp1-d1xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 16: pool_p1xtp1-d2xtp1_control, block 1
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
python launch_gptoss.py --control ttft=3000,tpot=60
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1_control --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 17: pool_p2xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-pool --layout p2xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p2xtp1-d1xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 2 --results-dir bm_results

# 18: pool_p1xtp1-d2xtp1, block 2
python launch_gptoss.py --roles p1-d2
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 19: 3xtp1, block 2
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_3xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 20: pool_p1xtp1-d2xtp1_control, block 2
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
python launch_gptoss.py --control ttft=3000,tpot=60
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1_control --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 21: pool_p1xtp1-d2xtp1_control, block 3
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
python launch_gptoss.py --control ttft=3000,tpot=60
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1_control --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 22: 3xtp1, block 3
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_3xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 23: pool_p1xtp1-d2xtp1, block 3
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p1xtp1-d2xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 3 --results-dir bm_results

# 24: pool_p2xtp1-d1xtp1, block 3
python launch_gptoss.py --roles p2-d1
python -m pdbench.gates --against bm_results/cpu_shift_tokens.json
./run_bm.sh -e cpu_shift_pool_p2xtp1-d1xtp1 --phases 2000:8:4:40,64:96:4:40,2000:8:4:40,64:96:4:40 --load 0.5 --tokens bm_results/cpu_shift_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_3xtp1 bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_pool_p1xtp1-d2xtp1 bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_pool_p2xtp1-d1xtp1 bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_pool_p1xtp1-d2xtp1_control --gpus-per-node 2 --figure shift --sla ttft=3000,tpot=60 --level 1 --plot-path bm_results/cpu_shift_1.png
python viz.py --exps bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_3xtp1 bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_pool_p1xtp1-d2xtp1 bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_pool_p2xtp1-d1xtp1 bm_results/gpt-oss-tiny_itl2000_otl96_shift_cpu_shift_pool_p1xtp1-d2xtp1_control --gpus-per-node 2 --figure shift --sla ttft=3000,tpot=60 --level 0.5 --plot-path bm_results/cpu_shift_2.png
