#!/usr/bin/env python3
"""What clients notice of a reload of a large configuration.

usage: benches/reload.py [--pools 1000000] [--rounds 7] [--rate 2000]

Traffic at a steady rate (h2load, 16 connections, not a saturated machine, where a queue is all one would see) goes
through shardgate to nginx. A round is some seconds of rest, then a reload in which one of all pools has changed, to three
seconds after its end, in which the old configuration is freed. h2load logs when each request began and how long it
took; the 99th percentiles of the two parts of a round are compared. Needs nginx and h2load (Debian: nginx-light,
nghttp2-client) and a release build. Traffic goes to loopback only.
"""

import argparse
import pathlib
import random
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
LISTEN, ADMIN, ORIGIN = 22001, 22002, 22003
TOKEN = "of-the-bench"
REST, AFTER = 6, 3


def write_pools(path, pools):
    generator = random.Random(1)
    with path.open("w") as out:
        for pool in range(pools):
            asset, region = divmod(pool, 10)
            one, two, three = (
                f'"10.{region}.{n // 250}.{n % 250 + 1}:8000"' for n in generator.sample(range(max(3, pools // 100)), 3)
            )
            out.write(f"[pools.SYM{asset:06}.region-{region}]\nprimaries = [{one}, {two}]\nreplicas = [{three}]\n")


def write_more(path, weight):
    member = f'{{ address = "127.0.0.1:{ORIGIN}", weight = {weight} }}'
    path.write_text(f"[pools.MORE.region-0]\nprimaries = [{member}]\n")


def configuration(directory, pools):
    regions = "".join(f"[regions.region-{n}]\nfallback = [\"region-{(n + 1) % 10}\"]\n" for n in range(10))
    (directory / "main.toml").write_text(
        f"""include = ["pools.toml", "more.toml"]
[server]
default_region = "region-0"
[[listeners]]
bind = "127.0.0.1:{LISTEN}"
[admin]
bind = "127.0.0.1:{ADMIN}"
token_file = "token"
[log]
access = "off"
[[routes]]
path = "/v1/{{asset}}"
[defaults]
health = false
{regions}"""
    )
    (directory / "token").write_text(TOKEN)
    write_pools(directory / "pools.toml", pools)
    write_more(directory / "more.toml", 1)
    (directory / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr crit;
events {{}}
http {{ access_log off; keepalive_requests 1000000;
server {{ listen 127.0.0.1:{ORIGIN}; location / {{ return 200 "{"x" * 128}"; }} }} }}"""
    )


def memory(process, name):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) // 1000 for line in status.splitlines() if line.startswith(name))


def reload():
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"http://127.0.0.1:{ADMIN}/api/v1/reload", method="POST", headers=headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        assert answer.status == 200, answer.read()


def wait_until_ready(process):
    until = time.time() + 120
    while time.time() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{LISTEN}/v1/MORE", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("shardgate does not serve")


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rate", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        configuration(directory, options.pools)
        spawned = []
        try:
            spawned.append(subprocess.Popen(["nginx", "-e", "stderr", "-c", directory / "nginx.conf"]))
            program = ROOT / "target/release/shardgate"
            log = (directory / "log").open("w")
            began = time.time()
            proxy = subprocess.Popen([program, "run", "-c", directory / "main.toml"], stderr=log)
            spawned.append(proxy)
            wait_until_ready(proxy)
            print(f"{options.pools} pools; serving after {time.time() - began:.1f} s, peak {memory(proxy, 'VmHWM')} MB")
            requests = directory / "requests"
            clients = 16
            h2load = subprocess.Popen(
                ["h2load", "--h1", "-c", str(clients), "-D", "3600", f"--rps={options.rate / clients}",
                 f"--log-file={requests}", f"http://127.0.0.1:{LISTEN}/v1/MORE"],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            spawned.append(h2load)
            time.sleep(2)
            windows = []
            for turn in range(options.rounds):
                write_more(directory / "more.toml", 2 + turn % 2)
                start = time.time()
                time.sleep(REST)
                asked = time.time()
                reload()
                done = time.time()
                time.sleep(AFTER)
                windows.append((start, asked, done, time.time()))
            h2load.terminate()
            h2load.wait()
            rows = [tuple(map(int, line.split("\t"))) for line in requests.read_text().splitlines()[:-1]]
            assert all(status == 200 for _, status, _ in rows), "an answer that is none"
            report(rows, windows)
            print(f"peak {memory(proxy, 'VmHWM')} MB")
            time.sleep(12)
            print(f"in the end {memory(proxy, 'VmRSS')} MB")
        finally:
            for process in spawned:
                process.terminate()
            for process in spawned:
                process.wait()


def report(rows, windows):
    ratios = []
    for start, asked, done, end in windows:
        within = lambda a, b: [took for began, _, took in rows if a * 1e6 <= began < b * 1e6]
        rest, busy = within(start, asked), within(asked, end)
        ratio = percentile(busy, 0.99) / percentile(rest, 0.99)
        ratios.append(ratio)
        print(
            f"reload {done - asked:.1f} s; p50 {percentile(rest, 0.5)} -> {percentile(busy, 0.5)} us, "
            f"p99 {percentile(rest, 0.99)} -> {percentile(busy, 0.99)} us ({ratio:.2f}), "
            f"longest {max(rest)} -> {max(busy)} us; {len(rest)} and {len(busy)} requests"
        )
    print(f"median of the ratios of the 99th percentiles: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
