#!/usr/bin/env bash
# cpu_serving_path: Framework overhead of one collocated replica and of 1P:1D, as added TTFT, added TPOT and the ratio of throughputs: of Ray Serve as this repository sets it, with direct streaming, and as it comes.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0
python debug/doctor.py --quick --brief

# 1: bare_1xtp1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --save bm_results/cpu_serving_path_tokens.json
./run_bm.sh -e cpu_serving_path_bare_1xtp1 --itl 500 --otl 64 -c 8 -n 64 --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 2: 1xtp1
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
./run_bm.sh -e cpu_serving_path_1xtp1 --itl 500 --otl 64 -c 8 -n 64 --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 3: 1xtp1_direct-streaming
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600 --direct-streaming
./run_bm.sh -e cpu_serving_path_1xtp1_direct-streaming --itl 500 --otl 64 -c 8 -n 64 --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 4: 1xtp1_ray-defaults
python launch_gptoss.py --mode collocated --layout 1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600 --serve-env RAY_SERVE_ENABLE_HA_PROXY=0 --serve-env RAY_SERVE_THROUGHPUT_OPTIMIZED=0 --llm-option pd_tokenize_once=false --llm-option prewarm_prefill_decode=false
./run_bm.sh -e cpu_serving_path_1xtp1_ray-defaults --itl 500 --otl 64 -c 8 -n 64 --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 5: bare_p1xtp1-d1xtp1
python launch_gptoss.py --mode bare-pd --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --against bm_results/cpu_serving_path_tokens.json
./run_bm.sh -e cpu_serving_path_bare_p1xtp1-d1xtp1 --itl 500 --otl 64 -c 8 -n 64 --tokens bm_results/cpu_serving_path_tokens.json --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 6: pack_p1xtp1-d1xtp1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --against bm_results/cpu_serving_path_tokens.json
./run_bm.sh -e cpu_serving_path_pack_p1xtp1-d1xtp1 --itl 500 --otl 64 -c 8 -n 64 --tokens bm_results/cpu_serving_path_tokens.json --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 7: pack_p1xtp1-d1xtp1_direct-streaming
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600 --direct-streaming
python -m pdbench.gates --against bm_results/cpu_serving_path_tokens.json
./run_bm.sh -e cpu_serving_path_pack_p1xtp1-d1xtp1_direct-streaming --itl 500 --otl 64 -c 8 -n 64 --tokens bm_results/cpu_serving_path_tokens.json --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

# 8: pack_p1xtp1-d1xtp1_ray-defaults
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600 --serve-env RAY_SERVE_ENABLE_HA_PROXY=0 --serve-env RAY_SERVE_THROUGHPUT_OPTIMIZED=0 --llm-option pd_tokenize_once=false --llm-option prewarm_prefill_decode=false
python -m pdbench.gates --against bm_results/cpu_serving_path_tokens.json
./run_bm.sh -e cpu_serving_path_pack_p1xtp1-d1xtp1_ray-defaults --itl 500 --otl 64 -c 8 -n 64 --tokens bm_results/cpu_serving_path_tokens.json --repeats 3 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_bare_1xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_1xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_1xtp1_direct-streaming bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_1xtp1_ray-defaults bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_bare_p1xtp1-d1xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_pack_p1xtp1-d1xtp1_direct-streaming bm_results/gpt-oss-tiny_itl500_otl64_mixed_cpu_serving_path_pack_p1xtp1-d1xtp1_ray-defaults --gpus-per-node 2 --itl --show-overhead --plot-path bm_results/cpu_serving_path.png
