"""The load: wrk for CPU time, h2load for response times, and sockets of our own for memory."""
import re
import socket
import subprocess
import sys
import time

from peers.proxies import ASSETS, HERE, PORTS, TLS, pinned

# What proxies.py and this need, with Debian's packages, beside the proxies.
PROGRAMS = (("wrk", "wrk"), ("h2load", "nghttp2-client"), ("cc", "gcc"), ("openssl", "openssl"), ("taskset", "util-linux"),
            ("pgrep", "procps"))

# name: (what, path below the asset, wrk's connections, wrk's script)
WRK = {
    "small": ("128 B answers, 64 connections", "", 64, "assets.lua"),
    "small-1000": ("128 B answers, 1,000 connections", "", 1000, "assets.lua"),
    "64k": ("64 KiB answers, 64 connections", "/64k", 64, "assets.lua"),
    "1m": ("1 MiB answers, 64 connections", "/1m", 64, "assets.lua"),
    "post-16k": ("16 KiB posts, 64 connections", "16384", 64, "post.lua"),
    "post-1m": ("1 MiB posts, 64 connections", "1048576", 64, "post.lua"),
    "new": ("a new connection per request, 64 at once", "", 64, "close.lua"),
    "tls": ("128 B answers over TLS, 64 connections", "", 64, "assets.lua"),
    "tls-new": ("a new connection and a full handshake per request, 64 at once", "", 64, "close.lua"),
}
# name: (what, path below the asset, h2load's connections, streams on each)
H2 = {
    "h2": ("128 B answers over HTTP/2 and TLS, 10 connections of 100 streams", "", 10, 100),
    "h2-64k": ("64 KiB answers over HTTP/2 and TLS, 10 connections of 100 streams", "/64k", 10, 100),
}
IDLE, SLOW = 9900, 1000


def ask(proxies, name, scenario, seconds):
    """As wrk, of either list."""
    return (h2 if scenario in H2 else wrk)(proxies, name, scenario, seconds)


def wrk(proxies, name, scenario, seconds):
    """CPU time of the proxy per request, in microseconds, and requests per second."""
    _, argument, connections, script = WRK[scenario]
    before = proxies.cpu_seconds(name)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / script]
    over_tls = scenario.startswith("tls")
    url = f"https://127.0.0.1:{PORTS[name] + TLS}" if over_tls else f"http://127.0.0.1:{PORTS[name]}"
    command += [url, "--", argument]
    out = subprocess.run(pinned(1, *command), check=True, capture_output=True, text=True).stdout
    used = proxies.cpu_seconds(name) - before
    requests = int(re.search(r"(\d+) requests in", out)[1])
    if errors := re.findall(r"(Socket errors.*|Non-2xx.*)", out):
        print(f"  {name}: {'; '.join(errors)}", file=sys.stderr)
    return used / requests * 1e6, requests / seconds


def h2(proxies, name, scenario, seconds):
    """As wrk."""
    _, path, connections, streams = H2[scenario]
    before = proxies.cpu_seconds(name)
    command = ["h2load", f"-c{connections}", f"-m{streams}", "-t1", f"-D{seconds}"]
    command += [f"https://127.0.0.1:{PORTS[name] + TLS}/v1/predict/{a}{path}" for a in ASSETS]
    out = subprocess.run(pinned(1, *command), check=True, capture_output=True, text=True).stdout
    used = proxies.cpu_seconds(name) - before
    good = int(re.search(r"(\d+) 2xx", out)[1])
    if "h2" not in re.search(r"Application protocol: (\S+)", out)[1]:
        sys.exit(f"{name} did not speak HTTP/2")
    if bad := re.findall(r"[1-9]\d* (?:failed|errored|timeout)", out):
        print(f"  {name}: {', '.join(bad)}", file=sys.stderr)
    return used / good * 1e6, good / seconds


def response_times(proxies, name, rate, seconds):
    """Median and 99th percentile in microseconds, at so many requests per second."""
    log = proxies.directory / f"times-{name}"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-c64", "-t1", f"-D{seconds}", f"--rps={max(1, round(rate / 64))}"]
    command += [f"--log-file={log}", *(f"http://127.0.0.1:{PORTS[name]}/v1/predict/{a}" for a in ASSETS)]
    subprocess.run(pinned(1, *command), check=True, stdout=subprocess.DEVNULL)
    rows = [line.split() for line in log.read_text().splitlines()]
    if failed := [status for _, status, _ in rows if status != "200"]:
        print(f"  {name}: {len(failed)} of {len(rows)} answers were not 200", file=sys.stderr)
    times = sorted(int(time) for _, _, time in rows)
    return times[len(times) // 2], times[len(times) * 99 // 100]


def request(path=""):
    return f"GET /v1/predict/BTC{path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def whole_answer(connection, size=128):
    """Reads one answer whose body has so many bytes."""
    got = b""
    while b"\r\n\r\n" not in got or len(got) < got.index(b"\r\n\r\n") + 4 + size:
        more = connection.recv(65536)
        if not more:
            sys.exit("a connection was closed while it was idle")
        got += more
    if not got.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"not the answer that was expected: {got[:200]}")


def ask_in_waves(connections, at_once=100):
    for start in range(0, len(connections), at_once):
        wave = connections[start:start + at_once]
        for connection in wave:
            connection.sendall(request())
        for connection in wave:
            whole_answer(connection)


def fresh(proxies, name):
    """Restarts it, and gives it some work first; its memory then."""
    proxies.restart(name)
    wrk(proxies, name, "small", 1)
    time.sleep(1)
    return proxies.memory(name)


def idle(proxies, name, count=IDLE):
    """Private memory per connection that had one request, after 15 s; and again after each had another."""
    base = fresh(proxies, name)
    connections = []
    try:
        for _ in range(count // 100):
            wave = [socket.create_connection(("127.0.0.1", PORTS[name]), timeout=20) for _ in range(100)]
            connections += wave
            ask_in_waves(wave)
        time.sleep(15)  # for what a proxy does with connections that stay idle
        first = (proxies.memory(name) - base) / count
        ask_in_waves(connections)
        time.sleep(15)
        return first, (proxies.memory(name) - base) / count
    finally:
        for connection in connections:
            connection.close()


def slow(proxies, name, count=SLOW):
    """Private memory per client that asks for 10 MiB: 5 s after none has read anything, and when each takes 4 KiB/s."""
    base = fresh(proxies, name)
    connections = []
    try:
        for _ in range(count):
            connection = socket.socket()
            connections.append(connection)
            # As far away: segments that fit an Ethernet and a window of a few of them. Else the kernel's buffers between two
            # processes on one machine take megabytes.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", PORTS[name]))
            connection.sendall(request("/10m"))
        time.sleep(5)
        nothing = (proxies.memory(name) - base) / count
        for _ in range(8):
            begun = time.monotonic()
            for connection in connections:
                if not connection.recv(4096):
                    sys.exit(f"{name} closed the connection of a slow reader")
            time.sleep(max(0, begun + 1 - time.monotonic()))
        return nothing, (proxies.memory(name) - base) / count
    finally:
        for connection in connections:
            connection.close()
