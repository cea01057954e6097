#!/usr/bin/env bash
# Runs everything that a change must pass. What it needs beyond Rust it installs where it may (apt-get as root; a virtual
# environment under target/), or it says what is missing and fails. The last lines are those of `cargo test`.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*" >&2; }

step "tools"
missing=()
packages=()
need() { # command, Debian package
    command -v "$1" > /dev/null 2>&1 || { missing+=("$1 ($2)"); packages+=("$2"); }
}
need cc gcc
need make make # builds jemalloc
need curl curl
need nginx nginx
need wrk wrk
need h2load nghttp2-client
need promtool prometheus
need systemd-analyze systemd
need python3 python3
need ip iproute2        # these three: networks to break, in namespaces
need tc iproute2
need iptables iptables
if ! python3 -c 'import ensurepip, venv' > /dev/null 2>&1; then
    missing+=("python3's venv (python3-venv)")
    packages+=(python3-venv)
fi
if ((${#packages[@]})); then
    if [[ $(id -u) == 0 ]] && command -v apt-get > /dev/null; then
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # install, but start no service
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends "${packages[@]}" > /dev/null
    else
        printf 'missing: %s\n' "${missing[@]}" >&2
        exit 1
    fi
fi
for tool in cargo rustfmt cargo-clippy; do
    command -v "$tool" > /dev/null || { echo "missing: $tool (https://rustup.rs)" >&2; exit 1; }
done
requirements=tests/it/peers/requirements.txt
if ! cmp -s "$requirements" target/peers/requirements.txt; then
    python3 -m venv --clear target/peers
    target/peers/bin/pip install -q --disable-pip-version-check -r "$requirements"
    cp "$requirements" target/peers/requirements.txt
fi

step "formatting"
cargo fmt --check
step "lints"
cargo clippy --all-targets --locked -- -D warnings
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --quiet
step "fuzz targets compile"
cargo check --manifest-path fuzz/Cargo.toml --locked --quiet --target-dir target/fuzz
step "tests"
cargo test --locked
