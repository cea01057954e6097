# Short names for what a developer does often. Everything works without `just`: each line is a plain command.

# Compile, quickly.
check:
    cargo check --all-targets --locked

# Formatting and lints.
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings

# All that a change must pass.
test:
    tests/run.sh

# Benchmarks.
bench *ARGS:
    cargo bench --locked {{ARGS}}

# CPU per request, response times and memory, beside nginx, HAProxy and a bare relay of bytes.
bench-peers *ARGS:
    benches/peers/run.py {{ARGS}}

# User instructions per request, by callgrind, compared with what is recorded (--update records).
instructions *ARGS:
    benches/instructions/run.py {{ARGS}}

# The profile that release builds are laid out by, anew (profile/README.md); needs llvm-profdata.
train *ARGS:
    benches/train.py {{ARGS}}

# Mixed load with faults for so many minutes; fails on errors, leaks and growth. Not in CI.
soak MINUTES="20":
    benches/soak/run.py {{MINUTES}}

# A fuzz target (docs/security.md); needs cargo-fuzz, not nightly. What it finds goes to fuzz/found.
fuzz TARGET *ARGS:
    mkdir -p fuzz/found/{{TARGET}} fuzz/corpus/{{TARGET}}
    cargo fuzz run -s none {{TARGET}} fuzz/found/{{TARGET}} fuzz/corpus/{{TARGET}} -- {{ARGS}}

# Every fuzz target for a minute.
fuzz-all:
    for target in $(cargo fuzz list); do just fuzz "$target" -max_total_time=60 || exit 1; done

# The documentation of the code.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Licences, bans and sources of what we depend on; needs cargo-deny.
deny:
    cargo deny --locked check --hide-inclusion-graph bans licenses sources

# Known weaknesses of what we depend on; needs cargo-deny and its database, which is fetched from GitHub.
advisories:
    cargo deny --locked check advisories

# What the binary is made of, as a CycloneDX document in target/; needs cargo-cyclonedx.
sbom:
    cargo cyclonedx --format json --describe binaries --no-build-deps --quiet
    mkdir -p target/package
    mv shardgate_bin.cdx.json target/package/shardgate.cdx.json

# The binary, its man page and completions, in target/package.
package:
    cargo build --release --locked
    mkdir -p target/package
    cp target/release/shardgate packaging/shardgate.service config/shardgate.toml target/package/
    target/release/shardgate man > target/package/shardgate.1
    target/release/shardgate completions bash > target/package/shardgate.bash
    target/release/shardgate completions zsh > target/package/_shardgate
    target/release/shardgate completions fish > target/package/shardgate.fish
