#!/usr/bin/env bash
# cpu_demo_as-published: In the collocated arm a neighbour's prefill stalls those who decode (p99 inter-token latency); in the PD arms it does not.
set -euo pipefail
python -m pdbench.local_cluster start --workers 2

# 1: 2xtp1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --save second_results/cpu_demo_as-published_tokens.json
./run_bm.sh -e cpu_demo_as-published_2xtp1 --itl 2000 --otl 32 -c 1,2,4,8 --as-published --repeats 1 --results-dir second_results
python launch_gptoss.py --stop

# 2: pack_p1xtp1-d1xtp1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-tiny.yaml --hardware configs/hardware/cpu.yaml --timeout 600
python -m pdbench.gates --against second_results/cpu_demo_as-published_tokens.json
./run_bm.sh -e cpu_demo_as-published_pack_p1xtp1-d1xtp1 --itl 2000 --otl 32 -c 1,2,4,8 --tokens second_results/cpu_demo_as-published_tokens.json --as-published --repeats 1 --results-dir second_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps second_results/gpt-oss-tiny_itl2000_otl32_mixed_cpu_demo_as-published_2xtp1 second_results/gpt-oss-tiny_itl2000_otl32_mixed_cpu_demo_as-published_pack_p1xtp1-d1xtp1 --gpus-per-node 2 --itl --show-tables --show-stalls --plot-path second_results/cpu_demo_as-published.png
