#!/usr/bin/env bash
# h200x2_network: PD over NVLink (cuda_ipc) against PD over TCP on loopback, as UCX sets it and with larger segments.
set -euo pipefail
python -m pdbench.local_cluster start --workers 2 --gpus 1
python debug/doctor.py --quick --brief

# 1: 2xtp1, block 1
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_network_tokens.json
./run_bm.sh -e h200x2_network_2xtp1 --isl 5000 --osl 250 -c 16 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: spread_p1xtp1-d1xtp1, block 1
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 16 --transport cuda_ipc --tokens bm_results/h200x2_network_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: spread_p1xtp1-d1xtp1_tcp, block 1
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --ucx-tls tcp,cuda_copy
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport tcp
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1_tcp --isl 5000 --osl 250 -c 16 --transport tcp --tokens bm_results/h200x2_network_tokens.json --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 4: spread_p1xtp1-d1xtp1_tcp-segments, block 2
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --ucx-tls tcp,cuda_copy --env UCX_TCP_TX_SEG_SIZE=1m --env UCX_TCP_RX_SEG_SIZE=1m
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport tcp
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1_tcp-segments --isl 5000 --osl 250 -c 4,16 --transport tcp --tokens bm_results/h200x2_network_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 5: spread_p1xtp1-d1xtp1_tcp, block 2
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --ucx-tls tcp,cuda_copy
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport tcp
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1_tcp --isl 5000 --osl 250 -c 4,16 --transport tcp --tokens bm_results/h200x2_network_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 6: 2xtp1, block 2
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_network_tokens.json
./run_bm.sh -e h200x2_network_2xtp1 --isl 5000 --osl 250 -c 4,16 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 7: spread_p1xtp1-d1xtp1, block 2
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,16 --transport cuda_ipc --tokens bm_results/h200x2_network_tokens.json --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 8: spread_p1xtp1-d1xtp1_tcp-segments, block 3
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --ucx-tls tcp,cuda_copy --env UCX_TCP_TX_SEG_SIZE=1m --env UCX_TCP_RX_SEG_SIZE=1m
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport tcp
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1_tcp-segments --isl 5000 --osl 250 -c 16 --transport tcp --tokens bm_results/h200x2_network_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 9: 2xtp1, block 3
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_network_tokens.json
./run_bm.sh -e h200x2_network_2xtp1 --isl 5000 --osl 250 -c 16 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 10: spread_p1xtp1-d1xtp1_tcp, block 3
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --ucx-tls tcp,cuda_copy
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport tcp
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1_tcp --isl 5000 --osl 250 -c 16 --transport tcp --tokens bm_results/h200x2_network_tokens.json --block 3 --results-dir bm_results
python launch_gptoss.py --stop

# 11: spread_p1xtp1-d1xtp1_tcp-segments, block 4
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --ucx-tls tcp,cuda_copy --env UCX_TCP_TX_SEG_SIZE=1m --env UCX_TCP_RX_SEG_SIZE=1m
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport tcp
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1_tcp-segments --isl 5000 --osl 250 -c 4,16 --transport tcp --tokens bm_results/h200x2_network_tokens.json --block 4 --results-dir bm_results
python launch_gptoss.py --stop

# 12: 2xtp1, block 4
python launch_gptoss.py --mode collocated --layout 2xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --save bm_results/h200x2_network_tokens.json
./run_bm.sh -e h200x2_network_2xtp1 --isl 5000 --osl 250 -c 4,16 --block 4 --results-dir bm_results
python launch_gptoss.py --stop

# 13: spread_p1xtp1-d1xtp1, block 4
python launch_gptoss.py --mode pd-spread --layout p1xtp1-d1xtp1 --model configs/models/gpt-oss-20b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
python -m pdbench.gates --against bm_results/h200x2_network_tokens.json --transport cuda_ipc
./run_bm.sh -e h200x2_network_spread_p1xtp1-d1xtp1 --isl 5000 --osl 250 -c 4,16 --transport cuda_ipc --tokens bm_results/h200x2_network_tokens.json --block 4 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_2xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1_tcp bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1_tcp-segments --gpus-per-node 2 --log-concurrency --show-blocks --plot-path bm_results/h200x2_network_1.png
python viz.py --exps bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_2xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1 bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1_tcp bm_results/gpt-oss-20b-shape_itl5000_otl250_mixed_h200x2_network_spread_p1xtp1-d1xtp1_tcp-segments --gpus-per-node 2 --figure network --plot-path bm_results/h200x2_network_2.png
