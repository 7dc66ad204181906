#!/usr/bin/env bash
# Builds a binary that needs no library of the system, and prints its path: one that runs on any Linux, and in an image
# without anything else.
#
#     deploy/build-static.sh                          # for this machine's processor, as a release
#     deploy/build-static.sh aarch64 --profile dev    # another processor, flags of cargo
#
# It needs rustup and a C compiler for musl, because mimalloc, ring and zstd are in part written in C. On Debian that is
# the package musl-tools. For another processor than this machine's, set CC_<target> and
# CARGO_TARGET_<TARGET>_LINKER to a cross compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

architecture="$(uname -m)"
case "${1:-}" in x86_64 | aarch64) architecture="$1" && shift ;; esac
[[ $# -gt 0 ]] || set -- --release
target="$architecture-unknown-linux-musl"
say() { echo "$@" >&2; }

# rustup reads rust-toolchain.toml, so the target is that of the pinned compiler.
rustup target add "$target" >&2
if [[ "$architecture" == "$(uname -m)" ]]; then
    command -v musl-gcc >/dev/null || { say "musl-gcc is missing: apt-get install musl-tools"; exit 1; }
    export "CC_${target//-/_}=musl-gcc"
fi

# The last line of cargo's messages about the binary has its path, whatever the profile and the target directory are.
binary="$(cargo build --locked --bin cameo --target "$target" --message-format json-render-diagnostics "$@" |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')"

# A binary that asks for an interpreter would not start in an empty image.
if readelf --program-headers "$binary" | grep -q INTERP; then
    say "$binary is linked dynamically"
    exit 1
fi
echo "$binary"
