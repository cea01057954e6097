#!/usr/bin/env python3
"""The profile that release builds are laid out by (profile-guided optimization): makes `profile/release.profdata` anew.

    benches/train.py [--seconds S]

Builds shardgate with counters in its code (`profile/rustc`), has it do the work of `benches/peers/` (each scenario that wrk and
h2load drive, for so many seconds, and small answers once more with an access log) and read a configuration of many pools, and
writes down how often each piece of code ran. Ten minutes. What `cargo build --release` makes after that knows what is rare and
lays it apart, and what is worth being inlined. When to do so, and what else there is to know: profile/README.md.

Needs llvm-profdata that reads what this compiler's programs write: `rustup component add llvm-tools`, or Debian's llvm-19 for Rust
1.95. Installs wrk and h2load from Debian if they are missing and it may. Traffic goes to loopback only.
"""
import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import reload  # noqa: E402
from peers import load  # noqa: E402
from peers.proxies import LOGGING, Proxies  # noqa: E402
from support.process import ROOT, need, spawn, stop, wait_for  # noqa: E402

PROFILE = ROOT / "profile/release.profdata"
MADE_OF = ROOT / "profile/made-of"
# A directory of its own: cargo does not see what makes this build another one.
TARGET = ROOT / "target/counting"
WORK = {"shardgate": [*load.WRK, *load.H2], "shardgate" + LOGGING: ["small"]}
POOLS = 20_000
COUNTS = "{}.profraw"  # by process


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="of each scenario")
    args = parser.parse_args()
    need(*load.PROGRAMS)
    tools = profdata()
    binary = build()
    with tempfile.TemporaryDirectory(prefix="shardgate-train-") as directory:
        directory = pathlib.Path(directory)
        os.environ |= {"SHARDGATE": str(binary), "LLVM_PROFILE_FILE": str(directory / COUNTS.format("%p"))}
        serve(directory, args.seconds)
        read(binary, directory)
        merge(tools, list(directory.glob(COUNTS.format("*"))))
    MADE_OF.write_text(made_of())
    print(f"{PROFILE}: {PROFILE.stat().st_size:,} bytes")


def profdata():
    """Whatever may be able to read the counts, the compiler's own first."""
    sysroot = pathlib.Path(output("rustc", "--print", "sysroot").strip())
    names = ["llvm-profdata", *(f"llvm-profdata-{n}" for n in range(30, 18, -1))]
    tools = [*map(str, sysroot.glob("lib/rustlib/*/bin/llvm-profdata")), *filter(None, map(shutil.which, names))]
    if not tools:
        sys.exit("missing: llvm-profdata (rustup component add llvm-tools, or Debian's package llvm-19)")
    return tools


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def made_of():
    """What the names of functions depend on: the compiler, and each dependency's version and features. `tests/it/profile.rs` says
    when that is not so any more."""
    tree = output("cargo", "tree", "--color", "never", "--locked", "--target", "x86_64-unknown-linux-gnu",
                  "--edges", "normal", "--prefix", "none", "--format", "{p} {f}")
    lines = {line.removesuffix(" (*)").replace(f" ({ROOT})", "").rstrip() for line in tree.splitlines()}
    return output("rustc", "--version") + "".join(f"{line}\n" for line in sorted(lines))


def build():
    command = ["cargo", "build", "--release", "--locked", "--bin", "shardgate", "--target-dir", TARGET]
    # Past what somebody has set for builds of their own: a wrapper, flags, a target.
    theirs = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    env |= {"RUSTC_WRAPPER": str(ROOT / "profile/rustc"), "SHARDGATE_COUNTS": str(TARGET / "counts")}
    subprocess.run(command, check=True, cwd=ROOT, env=env)
    return TARGET / "release/shardgate"


def serve(directory, seconds):
    proxies = Proxies(directory)
    try:
        proxies.start_origins()
        for name, scenarios in WORK.items():
            proxies.start(name)
            for scenario in scenarios:
                print(f"{name}: {scenario}", flush=True)
                load.ask(proxies, name, scenario, seconds)
            end(proxies.processes.pop(name), directory)
    finally:
        proxies.stop()


def read(binary, directory):
    """A configuration of many pools, as those who have many wait for it."""
    print(f"{POOLS:,} pools", flush=True)
    reload.configuration(directory, POOLS)
    process = spawn([binary, "run", "-c", directory / "main.toml"], directory / "many.out")
    try:
        wait_for(reload.LISTEN, process)
    finally:
        end(process, directory)


def end(process, directory):
    """Counts are written when a process ends by itself."""
    stop(process, signal.SIGTERM)
    if not (directory / COUNTS.format(process.pid)).exists():
        sys.exit(f"{process.args} wrote no counts")


def merge(tools, counts):
    """Of what ran at all: a fifth of the size, and what the work above has not done is not taken for rare."""
    said = []
    for tool in tools:
        done = subprocess.run([tool, "merge", "--sparse", "-o", PROFILE, *counts], capture_output=True, text=True)
        if done.returncode == 0:
            return
        said.append(f"{tool}: {done.stderr.strip()}")
    said.append("no llvm-profdata here reads what this compiler's programs write (rustup component add llvm-tools)")
    sys.exit("\n".join(said))


if __name__ == "__main__":
    main()
