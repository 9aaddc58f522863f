#!/usr/bin/env bash
# Sweep one running deployment with `vllm bench serve` into a result folder, one JSON file per level: see --help.
# PYTHON names the interpreter (default: .venv/bin/python, else python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=python
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
exec "${PYTHON:-$python}" -m pdbench.measure.sweep "$@"
