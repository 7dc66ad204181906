#!/usr/bin/env bash
# Tests the client against a real server: $CAMEO_BIN, or ../../target/debug/cameo if that is not set (`cargo build`).
# Arguments are passed to pytest.
set -euo pipefail

if [[ -n "${CAMEO_BIN:-}" ]]; then
    CAMEO_BIN="$(realpath "$CAMEO_BIN")" # It may be relative to the current folder, which changes below.
    export CAMEO_BIN
fi
cd "$(dirname "${BASH_SOURCE[0]}")"

python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable '.[dev]'
.venv/bin/python generate.py
exec .venv/bin/python -m pytest "$@"
