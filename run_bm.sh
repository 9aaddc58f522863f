#!/usr/bin/env bash
# Sweep one running deployment with `vllm bench serve` into a result folder, one JSON file per level.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'EOF'
usage: ./run_bm.sh -e NAME --itl N --otl N [options]
       ./run_bm.sh --smoke [-u URL]

  -e, --exp-name NAME            last part of the result folder's name, e.g. pd_p1xtp1-d1xtp1
  -t, --type TYPE                concurrency (default) | request-rate
  -c, --concurrency LIST         requests in flight: all (4 8 16 32 48 64, default) or e.g. 4,8,16
  -r, --request-rate LIST        requests per second: all (1 to 10, default) or e.g. 1,2,4
      --itl, --isl N             input tokens of each request
      --otl, --osl N             output tokens of each request
      --mode MODE                mixed (default) | prefill-only (N:1) | decode-only (1:N, an approximation)
  -u, --base-url URL             default http://127.0.0.1:8000
  -m, --served-model-name NAME   default: what the deployment says
      --tokenizer NAME|DIR       default: the deployment's model source
  -n, --num-prompts N            default 5 x concurrency; 500 at a request rate
      --repeats N                measurements of each level, default 1; raise it later to add some
      --seed N                   base seed, default 0; each level derives its own
      --results-dir DIR          default bm_results
      --force                    measure again what is there
      --transport LIST           UCX transports that must have carried the KV cache, e.g. cuda_ipc
      --tokens FILE              greedy tokens of the collocated arm, held against this one after each level
      --max-hit-rate X           largest share of prompt tokens from the prefix cache, default 0.02
      --as-published             the public study's procedure: one seed for all levels, no warm-up
  -s, --smoke                    stream one completion, print it with its times, and stop
EOF
}

die() { echo "run_bm: error: $1" >&2; exit 2; }

typed="./run_bm.sh${*:+ ${*@Q}}"
type=concurrency concurrency=all request_rate=all isl="" osl="" mode=mixed exp_name="" smoke="" model=""
base_url=http://127.0.0.1:8000 results_dir=bm_results
options=() checks=()
while (($#)); do
  case $1 in
    -s | --smoke) smoke=1; shift; continue ;;
    --force) options+=(--force); shift; continue ;;
    --as-published) options+=(--as-published); checks+=(--max-hit-rate 1); shift; continue ;;
    -h | --help) usage; exit 0 ;;
  esac
  [[ $1 == -* ]] || die "unexpected '$1': see --help"
  (($# > 1)) || die "option $1 is unknown or needs a value: see --help"
  case $1 in
    -e | --exp-name) exp_name=$2 ;;
    -t | --type) type=$2 ;;
    -c | --concurrency) concurrency=$2 ;;
    -r | --request-rate) request_rate=$2 ;;
    --itl | --isl) isl=$2 ;;
    --otl | --osl) osl=$2 ;;
    --mode) mode=$2 ;;
    -u | --base-url) base_url=${2%/} ;;
    -m | --served-model-name) model=$2; options+=(--model "$2") ;;
    --tokenizer) options+=(--tokenizer "$2") ;;
    -n | --num-prompts) options+=(--num-prompts "$2") ;;
    --repeats) options+=(--repeats "$2") ;;
    --seed) options+=(--seed "$2") ;;
    --transport | --tokens | --max-hit-rate) checks+=("$1" "$2") ;;
    --results-dir) results_dir=$2 ;;
    *) die "unknown option $1: see --help" ;;
  esac
  shift 2
done

bin=$([[ -x .venv/bin/python ]] && echo .venv/bin/ || true)
python=${PYTHON:-${bin}python}

if [[ $smoke ]]; then
  exec "$python" -m pdbench.client smoke --base-url "$base_url" ${model:+--model "$model"}
fi
[[ $exp_name && $isl && $osl ]] || die "--exp-name, --itl and --otl are needed: see --help"
[[ $exp_name =~ ^[A-Za-z0-9._-]+$ ]] || die "--exp-name '$exp_name' may hold letters, digits, '.', '_' and '-' only"
levels=$concurrency
[[ $type == request-rate ]] && levels=$request_rate

# What to measure: the deployment is asked what it is; levels that are there already are left out.
plan=$("$python" -m pdbench.bench begin --exp-name "$exp_name" --type "$type" --levels "$levels" \
  --isl "$isl" --osl "$osl" --mode "$mode" --base-url "$base_url" --results-dir "$results_dir" \
  --typed "$typed" "${options[@]}" "${checks[@]}") || exit $?
{
  read -r folder
  IFS=$'\t' read -r model tokenizer input_len output_len serving_url
  mapfile -t todo
} <<<"$plan"
[[ ${todo[*]} ]] || { echo "run_bm: nothing to do: all levels are measured (--force measures again)"; exit 0; }

# However this ends: no process and no part of a level stays.
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true; rm -f "$folder"/*.part' EXIT
trap 'echo "run_bm: interrupted; the same command goes on at this level" >&2; exit 130' INT TERM

# One bench client for all levels, since loading it takes longer than a short level. Its log stays where a sweep fails.
log=$folder/.client.log
coproc loaded { exec "$python" -m pdbench.bench_client "$log"; }
exec 4>&"${loaded[1]}" 5<&"${loaded[0]}"
trap '' PIPE # a client that died is told by its missing answer
"$python" -m pdbench.bench note "$folder" --base-url "$base_url" &
wait $!

begun=$SECONDS done=0
for line in "${todo[@]}"; do
  IFS=$'\t' read -r level value num_prompts seed warmup_seed again_seed <<<"$line"
  left=""
  ((done)) && left=", about $(((SECONDS - begun) * (${#todo[@]} - done) / done)) s left"
  echo "run_bm: level $level ($((done + 1)) of ${#todo[@]}): $num_prompts requests of $input_len:$output_len tokens$left"

  load=(--max-concurrency "$value") warm=$value
  [[ $type == request-rate ]] && load=(--request-rate "$value") && warm=4
  if [[ $warmup_seed != - ]]; then
    "$python" -m pdbench.bench warm "$folder" --base-url "$base_url" --serving-url "$serving_url" --model "$model" \
      --requests "$warm" --seed "$warmup_seed" &
    wait $!
  fi

  # vLLM's random prompts are runs of consecutive tokens, as many different ones as the vocabulary has words, so that
  # levels meet by chance. A few random tokens, fewer than a block, before all of a level's prompts tell them apart.
  prefix=0
  [[ $warmup_seed != - ]] && ((input_len > 16)) && prefix=8
  for attempt in 1 2; do
    ((attempt == 2)) && seed=$again_seed
    # shellcheck disable=SC2054 # the commas are vLLM's
    bench=(--backend vllm --base-url "$serving_url" --endpoint /v1/completions
      --model "$model" --tokenizer "$tokenizer" --dataset-name random
      --random-prefix-len "$prefix" --random-input-len "$((input_len - prefix))" --random-output-len "$output_len" --ignore-eos --temperature 0
      --num-prompts "$num_prompts" "${load[@]}" --seed "$seed"
      --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,95,99
      --save-result --save-detailed --result-dir "$folder" --result-filename "$level.json.part"
      --metadata "seed=$seed" "level=$level" "exp_name=$exp_name")
    started=$(date -u +%Y-%m-%dT%H:%M:%S.%3N+00:00)
    echo "${bench[*]@Q}" >&4 || true
    read -r status used <&5 || { status=1 used="0 0 0"; }
    ((status)) && tail -n 5 "$log" >&2
    judged=0
    # shellcheck disable=SC2086 # three numbers
    "$python" -m pdbench.bench finish "$folder" "$level" --status "$status" --command "vllm bench serve ${bench[*]@Q}" \
      --base-url "$base_url" --started "$started" --num-prompts "$num_prompts" --seed "$seed" --attempt "$attempt" \
      --warmup-seed "$warmup_seed" --client $used "${checks[@]}" &
    wait $! || judged=$?
    ((judged == 3)) || break # 3: kernels were compiled while it was measured
  done
  ((judged == 0)) || exit "$judged"
  done=$((done + 1))
done
rm -f "$log"
echo "run_bm: $done levels in $((SECONDS - begun)) s: $folder"
