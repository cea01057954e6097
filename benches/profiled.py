#!/usr/bin/env python3
"""A binary that is laid out by what it does: profile-guided optimization (PGO).

    benches/profiled.py [--seconds S] [--output FILE]

Builds shardgate with counters in its code, has it do the work of `benches/peers/` (each scenario that wrk and h2load drive, for
so many seconds, and small answers once more with an access log), builds it again with what they counted, and says where it is. The
compiler then knows what is rare and lays that apart, and what is worth being inlined. Two release builds: 10 to 20 minutes.

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
from peers import load  # noqa: E402
from peers.proxies import LOGGING, Proxies  # noqa: E402
from support.process import ROOT, need, stop  # noqa: E402

TARGET = ROOT / "target/profiled"
WORK = {"shardgate": [*load.WRK, *load.H2], "shardgate" + LOGGING: ["small"]}
COUNTS = "{}.profraw"  # by process


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="of each scenario")
    parser.add_argument("--output", type=pathlib.Path, default=TARGET / "shardgate")
    args = parser.parse_args()
    need(*load.PROGRAMS)
    tools = profdata()
    with tempfile.TemporaryDirectory(prefix="shardgate-profile-") as directory:
        directory = pathlib.Path(directory)
        counting = build(f"-Cprofile-generate={TARGET / 'counts'}")
        train(counting, directory, args.seconds)
        # In a directory of its own each time: a dependency that was built with flags of the same words is not built again.
        profile = directory / "profdata"
        merge(tools, list(directory.glob(COUNTS.format("*"))), profile)
        binary = build(f"-Cprofile-use={profile}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(binary, args.output)
    print(args.output)


def profdata():
    """Whatever may be able to read the counts, the compiler's own first."""
    sysroot = pathlib.Path(output("rustc", "--print", "sysroot"))
    names = ["llvm-profdata", *(f"llvm-profdata-{n}" for n in range(30, 18, -1))]
    tools = [*map(str, sysroot.glob("lib/rustlib/*/bin/llvm-profdata")), *filter(None, map(shutil.which, names))]
    if not tools:
        sys.exit("missing: llvm-profdata (rustup component add llvm-tools, or Debian's package llvm-19)")
    return tools


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def build(flag):
    """With `--target`, so that only what runs in the end is built that way, and no build script. The flag is put where nothing
    takes its place: flags from elsewhere do not count."""
    host = output("rustc", "--print", "host-tuple")
    command = ["cargo", "build", "--release", "--locked", "--bin", "shardgate", "--target", host, "--target-dir", TARGET]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"CARGO_ENCODED_RUSTFLAGS": flag})
    return TARGET / host / "release/shardgate"


def train(binary, directory, seconds):
    """Leaves a file with what was counted for each process that has worked."""
    os.environ |= {"SHARDGATE": str(binary), "LLVM_PROFILE_FILE": str(directory / COUNTS.format("%p"))}
    proxies = Proxies(directory)
    try:
        proxies.start_origins()
        for name, scenarios in WORK.items():
            proxies.start(name)
            pid = proxies.processes[name].pid
            for scenario in scenarios:
                print(f"{name}: {scenario}", flush=True)
                (load.h2 if scenario in load.H2 else load.wrk)(proxies, name, scenario, seconds)
            # Counts are written when a process ends by itself.
            stop(proxies.processes.pop(name), signal.SIGTERM)
            if not (directory / COUNTS.format(pid)).exists():
                sys.exit(f"{binary} wrote no counts")
    finally:
        proxies.stop()


def merge(tools, counts, profile):
    for tool in tools:
        done = subprocess.run([tool, "merge", "-o", profile, *counts], capture_output=True, text=True)
        if done.returncode == 0:
            return
        print(f"{tool}: {done.stderr.strip()}", file=sys.stderr)
    sys.exit("no llvm-profdata here reads what this compiler's programs write (rustup component add llvm-tools)")


main()
