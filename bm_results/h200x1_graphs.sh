#!/usr/bin/env bash
# h200x1_graphs: How much sooner tokens come where 6, 12 and 20 requests are no longer computed as 8, 16 and 24, and what the further graphs add to a launch.
set -euo pipefail
python -m pdbench.local_cluster start --workers 0 --gpus 1
python debug/doctor.py --quick --brief

# 1: bare_1xtp1, block 1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
./run_bm.sh -e h200x1_graphs_bare_1xtp1 --isl 5000 --osl 250 -c 6,12,16,20 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 2: bare_1xtp1_fine-graphs, block 1
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg 'compilation_config={"pass_config": {"fuse_allreduce_rms": false}, "cudagraph_capture_sizes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 2560, 2816, 3072, 3328, 3584, 3840, 4096, 4352, 4608, 4864, 5120, 5376, 5632, 5888, 6144, 6400, 6656, 6912, 7168, 7424, 7680, 7936, 8192]}'
./run_bm.sh -e h200x1_graphs_bare_1xtp1_fine-graphs --isl 5000 --osl 250 -c 6,12,16,20 --block 1 --results-dir bm_results
python launch_gptoss.py --stop

# 3: bare_1xtp1, block 2
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900
./run_bm.sh -e h200x1_graphs_bare_1xtp1 --isl 5000 --osl 250 -c 6,12,16,20 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 4: bare_1xtp1_fine-graphs, block 2
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg 'compilation_config={"pass_config": {"fuse_allreduce_rms": false}, "cudagraph_capture_sizes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 2560, 2816, 3072, 3328, 3584, 3840, 4096, 4352, 4608, 4864, 5120, 5376, 5632, 5888, 6144, 6400, 6656, 6912, 7168, 7424, 7680, 7936, 8192]}'
./run_bm.sh -e h200x1_graphs_bare_1xtp1_fine-graphs --isl 5000 --osl 250 -c 6,12,16,20 --block 2 --results-dir bm_results
python launch_gptoss.py --stop

# 5: bare_1xtp1_fine-graphs, block 3
python launch_gptoss.py --mode bare --layout 1xtp1 --model configs/models/gpt-oss-120b-shape.yaml --hardware configs/hardware/h200-x1.yaml --timeout 900 --engine-arg 'compilation_config={"pass_config": {"fuse_allreduce_rms": false}, "cudagraph_capture_sizes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 2560, 2816, 3072, 3328, 3584, 3840, 4096, 4352, 4608, 4864, 5120, 5376, 5632, 5888, 6144, 6400, 6656, 6912, 7168, 7424, 7680, 7936, 8192]}'
./run_bm.sh -e h200x1_graphs_bare_1xtp1_fine-graphs --isl 5000 --osl 250 -c 6,12,16,20 --block 3 --results-dir bm_results
python launch_gptoss.py --stop

python -m pdbench.local_cluster stop
python viz.py --exps bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_graphs_bare_1xtp1 bm_results/gpt-oss-120b-shape_itl5000_otl250_mixed_h200x1_graphs_bare_1xtp1_fine-graphs --gpus-per-node 1 --log-concurrency --show-tables --plot-path bm_results/h200x1_graphs.png
