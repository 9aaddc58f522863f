#!/usr/bin/env bash
# cpu_pool: Both ratios of three engines from one launch, and 1:2 also as pd-pack, whose numbers the pool's should equal.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0
python debug/doctor.py --quick --brief

# 1: 3xtp1, block 1
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_3xtp1 --isl 500 --osl 64 -c 4 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: pool_p1xtp1-d2xtp1, block 1
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pool_p1xtp1-d2xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 1 --results-dir bm_results

# 3: pool_p2xtp1-d1xtp1, block 1
python launch_gptoss.py --roles p2-d1
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pool_p2xtp1-d1xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: pack_p1xtp1-d2xtp1, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pack_p1xtp1-d2xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 5: pack_p1xtp1-d2xtp1, block 2
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pack_p1xtp1-d2xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 6: 3xtp1, block 2
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_3xtp1 --isl 500 --osl 64 -c 4 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 7: pool_p2xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-pool --layout p2xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pool_p2xtp1-d1xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 2 --results-dir bm_results

# 8: pool_p1xtp1-d2xtp1, block 2
python launch_gptoss.py --roles p1-d2
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pool_p1xtp1-d2xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 9: 3xtp1, block 3
python launch_gptoss.py --mode collocated --layout 3xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --save bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_3xtp1 --isl 500 --osl 64 -c 4 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 10: pool_p1xtp1-d2xtp1, block 3
python launch_gptoss.py --mode pd-pool --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pool_p1xtp1-d2xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 3 --results-dir bm_results

# 11: pool_p2xtp1-d1xtp1, block 3
python launch_gptoss.py --roles p2-d1
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pool_p2xtp1-d1xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 12: pack_p1xtp1-d2xtp1, block 3
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 1800
python -m pdbench.gates --against bm_results/cpu_pool_tokens.json
./run_bm.sh -e cpu_pool_pack_p1xtp1-d2xtp1 --isl 500 --osl 64 -c 4 --tokens bm_results/cpu_pool_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_pool_3xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_pool_pool_p1xtp1-d2xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_pool_pool_p2xtp1-d1xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_pool_pack_p1xtp1-d2xtp1 --gpus-per-node 2 --show-tables --show-blocks --plot-path bm_results/cpu_pool.png
