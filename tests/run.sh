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
# cargo-deny is no package of Debian's, so it is built, without what reads advisories: their database is elsewhere.
deny=$(command -v cargo-deny || true)
if [[ -z $deny ]]; then
    deny=target/tools/bin/cargo-deny
    [[ -x $deny ]] || CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version 0.20.2 --locked --debug --quiet \
        --no-default-features --root target/tools --target-dir target/tools/build
    rm -rf target/tools/build
fi
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
step "licences, bans and sources of what we depend on"
"$deny" --locked --log-level error check --hide-inclusion-graph bans licenses sources
step "tests"
# Most of a test is waiting for what others do: with two for each core the machine is busy, and done a third sooner.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))} cargo test --locked
