# What one does here; `just --list` shows it.

# Serve on 127.0.0.1:50051, with the store in ./cameo-data.
serve *flags:
    cargo run --release -- serve {{flags}}

# The tests that need Rust alone.
test *filter:
    cargo test -- {{filter}}

# The Python client against the real binary.
test-python:
    cargo build
    clients/python/run-tests.sh

# Format, lint, documentation.
check:
    cargo fmt --check
    python3 .ci/arrows.py
    python3 .ci/links.py
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
    .ci/buf lint
    .ci/buf format --diff --exit-code

# The load program. It prints the tables of docs/benchmarks.md, and takes about 15 minutes and 8 GB of disk.
bench *flags:
    cargo bench --bench load -- {{flags}}

# Everything that must hold before a change lands.
ci:
    .ci/run
