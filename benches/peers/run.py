#!/usr/bin/env python3
"""shardgate beside nginx, HAProxy and a bare relay of bytes, on equal work.

Every proxy runs one worker on core 0; origins and the load on core 1 (proxies.py, load.py). Rounds are interleaved, so that
what changes on the machine meanwhile changes for all; ratios are the medians of the rounds' ratios. The figure is CPU time
of the proxy's threads, from /proc/PID/task/*/schedstat, over the requests served: on a small shared machine that says more
than requests per second. Memory is private memory (smaps_rollup).

    benches/peers/run.py [--rounds N] [--seconds S] [--scenario NAME ...] [--proxy NAME ...] [--json FILE]

At the end it prints the limits that shardgate must keep, and fails if it does not. Installs nginx, haproxy, wrk and h2load
from Debian if they are missing and it may. Traffic goes to loopback only. SHARDGATE=FILE measures that binary instead of
this tree's.
"""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from peers import limits, load  # noqa: E402
from peers.proxies import LOGGING, Proxies  # noqa: E402
from support.process import FILES, need, shardgate  # noqa: E402

PROXIES = ["shardgate", "nginx", "haproxy", "relay"]
SCENARIOS = {scenario: what for scenario, (what, *_) in load.WRK.items()} | {
    **{scenario: what for scenario, (what, *_) in load.H2.items()},
    "log": "128 B answers, access log to a file, against the same without",
    "rate": "response times at half of the slowest proxy's rate",
    "idle": f"{load.IDLE:,} idle connections",
    "slow": f"{load.SLOW:,} clients that read 10 MiB slowly",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5, help="of each round and proxy")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--proxy", action="append", choices=PROXIES)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    need(("nginx", "nginx"), ("haproxy", "haproxy"), *load.PROGRAMS)
    shardgate()  # built before anything runs
    names = args.proxy or PROXIES
    results = {}
    with tempfile.TemporaryDirectory(prefix="shardgate-bench-") as directory:
        proxies = Proxies(directory)
        try:
            proxies.start_origins()
            for name in names:
                proxies.start(name)
            for scenario in args.scenario or SCENARIOS:
                print(f"\n== {scenario}: {SCENARIOS[scenario]}", flush=True)
                measure = {"idle": idle, "slow": slow, "rate": rate, "log": log}.get(scenario, cpu)
                results[scenario] = measure(proxies, scenario, names, args)
            peaks = {name: proxies.peak_memory(name) for name in names}
            print("\npeak memory: " + ", ".join(f"{n} {b / 1e6:.1f} MB" for n, b in peaks.items()))
        finally:
            proxies.stop()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    if "shardgate" in names and not limits.show(results):
        sys.exit(1)


def rounds(args, names, figure):
    """figure(name) for all in each round, every second round the other way round: {name: [figure]}."""
    figures = {name: [] for name in names}
    for at in range(args.rounds):
        for name in names if at % 2 == 0 else reversed(names):
            figures[name].append(figure(name))
    return figures


def ratio(ours, theirs):
    return statistics.median(a / b for a, b in zip(ours, theirs))


def cpu(proxies, scenario, names, args):
    if scenario in load.H2 or scenario.startswith("tls"):
        names = [name for name in names if name != "relay"]
    for name in names:
        load.ask(proxies, name, scenario, 1)
    figures = rounds(args, names, lambda name: load.ask(proxies, name, scenario, args.seconds))
    result = {}
    for name in names:
        used, served = zip(*figures[name])
        over = ratio(next(zip(*figures["shardgate"])), used) if "shardgate" in names else float("nan")
        result[name] = {"cpu_us": statistics.median(used), "shardgate_over_it": over}
        print(f"{name:10} {statistics.median(used):8.2f} µs CPU a request, {statistics.median(served):7.0f} requests/s"
              f"   shardgate/{name} {over:.3f}", flush=True)
    return result


def log(proxies, _, names, args):
    """How much the access log adds: each proxy beside its own like without one."""
    names = [name for name in names if name != "relay"]
    for name in names:
        proxies.start(name + LOGGING)
    pairs = [one for name in names for one in (name, name + LOGGING)]
    for name in pairs:
        load.wrk(proxies, name, "small", 1)
    figures = rounds(args, pairs, lambda name: load.wrk(proxies, name, "small", args.seconds)[0])
    result = {}
    for name in names:
        result[name] = {"on_over_off": ratio(figures[name + LOGGING], figures[name])}
        on, off = (statistics.median(figures[one]) for one in (name + LOGGING, name))
        print(f"{name:10} {off:8.2f} µs CPU a request, {on:8.2f} with the log: on/off {result[name]['on_over_off']:.3f}"
              f"   ({proxies.log_lines(name + LOGGING):,} lines)")
    proxies.stop(*(name + LOGGING for name in names))
    return result


def rate(proxies, _, names, args):
    slowest = min(load.wrk(proxies, name, "small", 3)[1] for name in names)
    print(f"{slowest / 2:,.0f} requests/s")
    figures = rounds(args, names, lambda name: load.response_times(proxies, name, slowest / 2, args.seconds))
    result = {}
    for name in names:
        p50, p99 = zip(*figures[name])
        over = ratio([ours for _, ours in figures["shardgate"]], p99) if "shardgate" in names else float("nan")
        result[name] = {"p50_us": statistics.median(p50), "p99_us": statistics.median(p99), "shardgate_over_it": over}
        print(f"{name:10} p50 {statistics.median(p50):6.0f} µs   p99 {statistics.median(p99):6.0f} µs"
              f"   p99 shardgate/{name} {over:.3f}")
    return result


def idle(proxies, _, names, __):
    if FILES < load.IDLE * 2 + 100:
        sys.exit(f"this needs {load.IDLE * 2 + 100} open files (ulimit -Hn says {FILES})")
    result = {name: load.idle(proxies, name) for name in names if name != "relay"}
    for name, (first, second) in result.items():
        print(f"{name:10} {first:8.0f} B a connection, {second:8.0f} B after another wave")
    return result


def slow(proxies, _, names, __):
    result = {name: load.slow(proxies, name) for name in names if name != "relay"}
    for name, (nothing, little) in result.items():
        print(f"{name:10} {nothing:8.0f} B a client that reads nothing, {little:8.0f} B one that takes 4 KiB/s")
    return result


if __name__ == "__main__":
    main()
