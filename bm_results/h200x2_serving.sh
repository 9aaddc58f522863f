#!/usr/bin/env bash
# h200x2_serving: What Ray Serve adds to TTFT and TPOT, and takes from throughput, on two H200s, collocated and with PD.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 2
python debug/doctor.py --quick --brief

# 1: 2xtp1, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_serving_tokens.json
./run_bm.sh -e h200x2_serving_2xtp1 --isl 5000 --osl 250 -c 1,4,16,64 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: pack_p1xtp1-d1xtp1, block 1
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_serving_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_serving_pack_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 1,4,16,64 --transport cuda_ipc --tokens bm_results/h200x2_serving_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: bare_2xtp1, block 1
python launch_gptoss.py --mode bare --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
./run_bm.sh -e h200x2_serving_bare_2xtp1 --isl 5000 --osl 250 -c 1,4,16,64 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: bare_p1xtp1-d1xtp1, block 1
python launch_gptoss.py --mode bare-pd --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_serving_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_serving_bare_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 1,4,16,64 --transport cuda_ipc --tokens bm_results/h200x2_serving_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 5: bare_2xtp1, block 2
python launch_gptoss.py --mode bare --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
./run_bm.sh -e h200x2_serving_bare_2xtp1 --isl 5000 --osl 250 -c 4,16,64 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 6: 2xtp1_asked, block 3
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --serve-env RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S=0
./run_bm.sh -e h200x2_serving_2xtp1_asked --isl 5000 --osl 250 -c 4,16 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 7: 2xtp1, block 3
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900
./run_bm.sh -e h200x2_serving_2xtp1 --isl 5000 --osl 250 -c 4,16 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 8: 2xtp1_direct-streaming, block 4
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --direct-streaming
./run_bm.sh -e h200x2_serving_2xtp1_direct-streaming --isl 5000 --osl 250 -c 4,16 --block 4 --results-dir bm_results
python launch_gptoss.py --stop

# 9: pack_p1xtp1-d1xtp1_direct-streaming, block 4
python launch_gptoss.py --mode pd-pack --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x2.yaml --timeout 900 --direct-streaming
python -m pdbench.gates --against bm_results/h200x2_serving_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_serving_pack_p1xtp1-d1xtp1_direct-streaming --isl 5000 --osl 250 -c 4,16 --transport cuda_ipc --tokens bm_results/h200x2_serving_tokens.json --block 4 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_2xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_bare_2xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_2xtp1_asked bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_2xtp1_direct-streaming bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_pack_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_bare_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_serving_pack_p1xtp1-d1xtp1_direct-streaming --gpus-per-node 2 --log-concurrency --show-overhead --show-sharing --show-blocks --plot-path bm_results/h200x2_serving.png
