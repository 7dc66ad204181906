#!/usr/bin/env bash
# Tests the client against the real server: $CAMEO_BIN, or else ../../target/debug/cameo (`cargo build`).
# Arguments go to pytest.
set -euo pipefail

if [[ -n "${CAMEO_BIN:-}" ]]; then
    CAMEO_BIN="$(realpath "$CAMEO_BIN")" # It may be relative to the folder we are called from.
    export CAMEO_BIN
fi
cd "$(dirname "${BASH_SOURCE[0]}")"

python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable '.[dev]'
.venv/bin/python generate.py
exec .venv/bin/python -m pytest "$@"
