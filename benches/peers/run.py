#!/usr/bin/env python3
"""shardgate beside nginx, HAProxy and a bare relay of bytes, on equal work.

Every proxy runs one worker on core 0; origins and the load on core 1. Three assets with three origins each, routed by
the first path segments, keep-alive pools to the origins, X-Forwarded-For, no access log. Rounds are interleaved, so that
what changes on the machine meanwhile changes for all. The figure is CPU time of the proxy's threads, from
/proc/PID/task/*/schedstat, over the requests served: on a small shared machine that says more than requests per second.

    benches/peers/run.py [--rounds N] [--seconds S] [--scenario NAME ...] [--json FILE]

Installs nginx, haproxy, wrk and h2load from Debian if they are missing and it may. Traffic goes to loopback only.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

# What a process may have open here; HAProxy counts two for each connection.
FILES = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ASSETS = ["BTC", "ETH", "DOGE"]
ORIGIN_PORTS = {asset: [20000 + 10 * i + k for k in range(3)] for i, asset in enumerate(ASSETS)}
PORTS = {"shardgate": 21001, "nginx": 21002, "haproxy": 21003, "relay": 21004}
# name: (what, path below the asset, wrk's connections, wrk script or None)
SCENARIOS = {
    "small": ("128 B answers, 64 connections", "", 64, None),
    "small-1000": ("128 B answers, 1,000 connections", "", 1000, None),
    "64k": ("64 KiB answers, 64 connections", "/64k", 64, None),
    "post-16k": ("16 KiB posts, 64 connections", "", 64, "post.lua"),
    "new": ("a new connection per request, 64 at once", "", 64, "close.lua"),
    "idle": ("9,900 idle connections", "", 0, None),
    "rate": ("response times at half of the slowest proxy's rate", "", 0, None),
}


def need(command, package):
    if shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-qq", "-y", package], check=True, stdout=subprocess.DEVNULL)
    else:
        sys.exit(f"missing: {command} (Debian's package {package})")


def pinned(core, *command):
    return ["taskset", "-c", str(core), *map(str, command)]


def write(path, text):
    path.write_text(text)
    return path


class Bench:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.processes = {}

    def spawn(self, name, command):
        log = open(self.directory / f"{name}.log", "w")
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def origins(self):
        servers = "".join(f"listen 127.0.0.1:{port};" for ports in ORIGIN_PORTS.values() for port in ports)
        conf = f"""
user root; worker_processes 1; daemon off; pid {self.directory}/origin.pid; error_log {self.directory}/origin.err;
events {{ worker_connections 30000; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 16m;
  client_body_buffer_size 64k; sendfile on; tcp_nopush on;
  server {{ {servers}
    location / {{ return 200 "{'x' * 128}"; }}
    location ~ /64k$ {{ root {self.directory}/www; try_files /64k =404; }}
    location ~ /1m$ {{ root {self.directory}/www; try_files /1m =404; }}
  }}
}}"""
        (self.directory / "www").mkdir()
        (self.directory / "www/64k").write_bytes(b"x" * 65536)
        (self.directory / "www/1m").write_bytes(b"x" * (1 << 20))
        for ports in ORIGIN_PORTS.values():
            assert all(not listening(port) for port in ports), "the origins' ports are in use"
        self.spawn("origin", pinned(1, "nginx", "-c", write(self.directory / "origin.conf", conf)))
        wait_for(ORIGIN_PORTS["BTC"][0])

    def proxy(self, name):
        getattr(self, f"start_{name}")(PORTS[name])
        wait_for(PORTS[name])

    def start_shardgate(self, port):
        pools = "".join(
            f"[pools.{asset}.here]\nprimaries = [{', '.join(f'{chr(34)}127.0.0.1:{p}{chr(34)}' for p in ports)}]\n"
            for asset, ports in ORIGIN_PORTS.items()
        )
        conf = f"""
[server]
workers = 1
[[listeners]]
bind = "127.0.0.1:{port}"
[admin]
bind = "127.0.0.1:{port + 500}"
[log]
access = "off"
[[routes]]
path = "/v1/predict/{{asset}}"
[[routes]]
path = "/v1/predict/{{asset}}/{{*rest}}"
[regions.here]
[defaults.timeouts]
keepalive = "300s"
{pools}"""
        binary = os.environ.get("SHARDGATE", ROOT / "target/release/shardgate")
        self.spawn("shardgate", pinned(0, binary, "run", "-c", write(self.directory / "shardgate.toml", conf)))

    def start_nginx(self, port):
        upstreams = "".join(
            f"upstream {asset} {{ {''.join(f'server 127.0.0.1:{p};' for p in ports)} keepalive 1024; "
            "keepalive_requests 100000000; }\n"
            for asset, ports in ORIGIN_PORTS.items()
        )
        locations = "".join(f"location /v1/predict/{a} {{ proxy_pass http://{a}; }}\n" for a in ASSETS)
        conf = f"""
worker_processes 1; daemon off; pid {self.directory}/nginx.pid; error_log {self.directory}/nginx.err;
worker_rlimit_nofile {FILES};
events {{ worker_connections {FILES}; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 16m;
  client_body_buffer_size 64k; proxy_buffer_size 16k; proxy_buffers 8 128k; proxy_busy_buffers_size 256k;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; tcp_nodelay on;
  {upstreams}
  server {{ listen 127.0.0.1:{port} backlog=4096; {locations} }}
}}"""
        self.spawn("nginx", pinned(0, "nginx", "-c", write(self.directory / "nginx.conf", conf)))

    def start_haproxy(self, port):
        backends = "".join(
            f"backend {asset}\n  balance leastconn\n  http-reuse always\n"
            + "".join(f"  server s{p} 127.0.0.1:{p} pool-max-conn 1024\n" for p in ports)
            for asset, ports in ORIGIN_PORTS.items()
        )
        uses = "".join(f"  use_backend {a} if {{ path_beg /v1/predict/{a} }}\n" for a in ASSETS)
        conf = f"""
global
  nbthread 1
  maxconn {(FILES - 100) // 2}
  tune.bufsize 32768
defaults
  mode http
  timeout client 600s
  timeout server 60s
  timeout connect 5s
  timeout http-keep-alive 600s
  option forwardfor
frontend f
  bind 127.0.0.1:{port} backlog 4096
{uses}{backends}"""
        self.spawn("haproxy", pinned(0, "haproxy", "-db", "-f", write(self.directory / "haproxy.cfg", conf)))

    def start_relay(self, port):
        binary = self.directory / "relay"
        subprocess.run(["cc", "-O2", "-o", binary, HERE / "relay.c"], check=True)
        self.spawn("relay", pinned(0, binary, port, ORIGIN_PORTS["BTC"][0]))

    def cpu_seconds(self, name):
        """CPU time of all its threads and of its children (nginx's workers)."""
        return sum(
            int((task / "schedstat").read_text().split()[0]) / 1e9
            for pid in family(self.processes[name].pid)
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
        )

    def memory(self, name):
        """Private memory and swap of its processes, in bytes."""
        total = 0
        for pid in family(self.processes[name].pid):
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += 1024 * sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.M))
        return total

    def peak_memory(self, name):
        status = [pathlib.Path(f"/proc/{p}/status").read_text() for p in family(self.processes[name].pid)]
        return 1024 * sum(int(re.search(r"VmHWM:\s+(\d+)", text)[1]) for text in status)

    def wrk(self, name, scenario, seconds):
        _, path, connections, script = SCENARIOS[scenario]
        before = self.cpu_seconds(name)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / (script or "assets.lua")]
        command += [f"http://127.0.0.1:{PORTS[name]}", "--", path]
        out = subprocess.run(pinned(1, *command), check=True, capture_output=True, text=True).stdout
        used = self.cpu_seconds(name) - before
        requests = int(re.search(r"(\d+) requests in", out)[1])
        errors = re.findall(r"(Socket errors.*|Non-2xx.*)", out)
        if errors:
            print(f"  {name}: {'; '.join(errors)}", file=sys.stderr)
        return used / requests * 1e6, requests / seconds

    def idle(self, name, count=9900):
        base = self.memory(name)
        connections = []
        request = b"GET /v1/predict/BTC HTTP/1.1\r\nHost: bench\r\n\r\n"
        for wave in range(0, count, 100):
            new = [socket.create_connection(("127.0.0.1", PORTS[name])) for _ in range(min(100, count - wave))]
            for connection in new:
                connection.sendall(request)
            for connection in new:
                connection.recv(65536)
            connections += new
        time.sleep(15)  # for what a proxy does with connections that stay idle
        first = (self.memory(name) - base) / count
        for wave in range(0, count, 100):
            for connection in connections[wave:wave + 100]:
                connection.sendall(request)
            for connection in connections[wave:wave + 100]:
                connection.recv(65536)
        time.sleep(15)
        second = (self.memory(name) - base) / count
        for connection in connections:
            connection.close()
        return first, second

    def response_times(self, name, rate, seconds):
        log = self.directory / f"times-{name}"
        log.unlink(missing_ok=True)
        command = ["h2load", "--h1", "-c64", "-t1", f"-D{seconds}", f"--rps={max(1, round(rate / 64))}"]
        command += [f"--log-file={log}", *(f"http://127.0.0.1:{PORTS[name]}/v1/predict/{a}" for a in ASSETS)]
        subprocess.run(pinned(1, *command), check=True, stdout=subprocess.DEVNULL)
        times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
        return times[len(times) // 2], times[len(times) * 99 // 100]

    def stop(self):
        for process in self.processes.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def family(pid):
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *(p for child in children for p in family(int(child)))]


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def wait_for(port):
    deadline = time.monotonic() + 20
    while not listening(port):
        if time.monotonic() > deadline:
            sys.exit(f"nothing listens on {port}")
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--proxy", action="append", choices=PORTS)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    for command, package in [("nginx", "nginx"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("h2load", "nghttp2-client"),
                             ("cc", "gcc"), ("taskset", "util-linux"), ("pgrep", "procps")]:
        need(command, package)
    os.environ["PATH"] += ":/usr/sbin"
    if "SHARDGATE" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked"], check=True, cwd=ROOT)
    names = args.proxy or list(PORTS)
    results = {}
    with tempfile.TemporaryDirectory(prefix="shardgate-bench-") as directory:
        bench = Bench(directory)
        try:
            bench.origins()
            for name in names:
                bench.proxy(name)
            for scenario in args.scenario or SCENARIOS:
                results[scenario] = run(bench, scenario, names, args)
            peaks = {name: bench.peak_memory(name) for name in names}
            print("\npeak memory: " + ", ".join(f"{n} {b / 1e6:.1f} MB" for n, b in peaks.items()))
        finally:
            bench.stop()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def run(bench, scenario, names, args):
    what = SCENARIOS[scenario][0]
    print(f"\n== {scenario}: {what}", flush=True)
    if scenario == "idle":
        result = {name: bench.idle(name) for name in names if name != "relay"}
        for name, (first, second) in result.items():
            print(f"{name:10} {first:8.0f} B a connection, {second:8.0f} B after another wave")
        return result
    if scenario == "rate":
        slowest = min(bench.wrk(name, "small", 3)[1] for name in names)
        rounds = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                rounds[name].append(bench.response_times(name, slowest / 2, args.seconds))
        result = {name: [statistics.median(column) for column in zip(*times)] for name, times in rounds.items()}
        for name, (p50, p99) in result.items():
            print(f"{name:10} p50 {p50:6.0f} µs   p99 {p99:6.0f} µs")
        return result
    figures = {name: [] for name in names}
    for name in names:
        bench.wrk(name, scenario, 1)
    for _ in range(args.rounds):
        for name in names:
            figures[name].append(bench.wrk(name, scenario, args.seconds)[0])
    ours = figures.get("shardgate")
    result = {}
    for name, values in figures.items():
        ratios = [mine / theirs for mine, theirs in zip(ours, values)] if ours else []
        ratio = statistics.median(ratios) if ratios else float("nan")
        result[name] = {"cpu_us": statistics.median(values), "shardgate_over_it": ratio}
        print(f"{name:10} {statistics.median(values):7.2f} µs CPU a request   shardgate/{name} {ratio:.3f}", flush=True)
    return result


if __name__ == "__main__":
    main()
