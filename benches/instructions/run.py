#!/usr/bin/env python3
"""User instructions per request, compared with what is recorded in expected.toml.

Unlike CPU time, instructions are the same on a busy machine, so that a change of one percent is seen. They tell nothing of
the kernel, which has most of the CPU time: benches/peers says what a request costs in all. The release binary runs under
callgrind, with one worker and without health checks, between an origin and a client of our own; one keep-alive connection,
one request after the other; `busy` on 64 connections at once, as in benches/peers, where the allocator shows; over HTTP/2 a
hundred at a time. Counts are set to zero after a warm-up and read after two runs of different length: the
difference of the two has neither start nor end in it.

Instructions that lock a cache line (a `lock` prefix, `xchg` with memory) are counted as well, by matching the executed
addresses with the disassembly: shared lines that are written per request are what keeps workers from scaling.

    benches/instructions/run.py [--update] [--shape NAME ...] [--locks N] [--profile N]

Fails if a shape needs over 3 % more than recorded; `--update` records what was measured. Installs valgrind and binutils
from Debian if they are missing and it may. SHARDGATE=FILE measures that binary instead of this tree's.
"""
import argparse
import contextlib
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from instructions import callgrind, http2  # noqa: E402
from support.process import compiled, must_be_free, need, shardgate, spawn, stop, wait_for, write  # noqa: E402

EXPECTED = HERE / "expected.toml"
TOLERANCE = 0.03
ORIGINS = [23101, 23102, 23103]
PORT = 23001
SHORT, LONG = 200, 1200
BUSY = 64
COOKIES = "; ".join(f"{name}={value * 4}" for name, value in
                    [("session", "8f14e45fceea1"), ("theme", "dark"), ("_ga", "GA1.2.1094"), ("consent", "yes-all")])
BROWSER = f"""\
GET /v1/predict/BTC/browser HTTP/1.1
Host: api.example.com
Connection: keep-alive
sec-ch-ua: "Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"
sec-ch-ua-mobile: ?0
sec-ch-ua-platform: "Linux"
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: cors
Referer: https://www.example.com/charts/overview?span=1d&currency=eur
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en;q=0.9,de;q=0.8
Cookie: {COOKIES}

""".replace("\n", "\r\n").encode()
GET = "GET /v1/predict/BTC{} HTTP/1.1\r\nHost: 127.0.0.1:23001\r\n\r\n"
# name: (what, request, size of the answer's body, access log)
SHAPES = {
    "small": ("a GET, 128 B back", GET.format("").encode(), 128, False),
    "busy": (f"the same on {BUSY} connections at once", GET.format("").encode(), 128, False),
    "browser": (f"a browser's head of {len(BROWSER)} B, 10 fields and 1 KiB back", BROWSER, 1024, False),
    "post-16k": ("a POST of 16 KiB, 128 B back", b"POST /v1/predict/BTC HTTP/1.1\r\nHost: 127.0.0.1:23001\r\n"
                 b"Content-Length: 16384\r\n\r\n" + b"x" * 16384, 128, False),
    "64k": ("a GET, 64 KiB back", GET.format("/64k").encode(), 65536, False),
    "h2": ("a GET over HTTP/2, 128 B back, 100 at once", "", 128, False),
    "h2-64k": ("a GET over HTTP/2, 64 KiB back, 100 at once", "/64k", 65536, False),
    "logged": ("a GET, 128 B back, access log to a file", GET.format("").encode(), 128, True),
}
CONFIG = """
[server]
workers = 1
[[listeners]]
bind = "127.0.0.1:{port}"
[admin]
bind = "127.0.0.1:{admin}"
[log]
access = "{access}"
[[routes]]
path = "/v1/predict/{{asset}}"
[[routes]]
path = "/v1/predict/{{asset}}/{{*rest}}"
[regions.here]
[defaults]
health = false
[defaults.timeouts]
keepalive = "600s"
[pools.BTC.here]
primaries = [{origins}]
"""


def asking(connections, request, size):
    """What sends the request so often as it is told: bytes, or a path, which goes over HTTP/2."""
    if isinstance(request, str):
        return http2.Client(connections[0], f"127.0.0.1:{PORT}", f"/v1/predict/BTC{request}", size).ask
    return lambda times: ask(connections, request, size, times)


def ask(connections, request, size, times):
    """Sends the request so often, each time on all connections, waiting for the whole answers."""
    while times > 0:
        wave = connections[:times]
        times -= len(wave)
        for connection in wave:
            connection.sendall(request)
        for connection in wave:
            take_answer(connection, size)


def take_answer(connection, size):
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(262144) or sys.exit("the connection was closed")
    head, _, body = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"not the answer that was expected: {head.decode()}")
    left = size - len(body)
    while left > 0:
        left -= len(connection.recv(262144)) or sys.exit("the connection was closed")


def measure(binary, shape, directory):
    """What one request executes: by place, and by function with all that it calls; see callgrind.read."""
    _, request, size, logged = SHAPES[shape]
    access = str(directory / "access.log") if logged else "off"
    origins = ", ".join(f'"127.0.0.1:{port}"' for port in ORIGINS)
    config = CONFIG.format(port=PORT, admin=PORT + 500, access=access, origins=origins)
    out = directory / f"callgrind-{shape}"
    command = ["valgrind", "--tool=callgrind", "--dump-instr=yes", "--compress-strings=no", "--compress-pos=no",
               f"--callgrind-out-file={out}", binary, "run", "-c", write(directory / f"{shape}.toml", config)]
    daemon = spawn(command, directory / f"{shape}.log")
    try:
        wait_for(PORT, daemon, 120)
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(socket.create_connection(("127.0.0.1", PORT), timeout=60))
                           for _ in range(BUSY if shape == "busy" else 1)]
            asks = asking(connections, request, size)
            asks(200)
            for times in (SHORT, LONG):
                control(daemon, "zero")
                asks(times)
                time.sleep(0.3)  # the log's thread writes what it has
                control(daemon, f"dump {times}")
    finally:
        stop(daemon)
    short, long = (callgrind.read(pathlib.Path(f"{out}.{n}")) for n in (1, 2))
    return [{at: (n - b[at]) / (LONG - SHORT) for at, n in a.items()} for a, b in zip(long, short)]


def control(daemon, command):
    subprocess.run(["vgdb", f"--pid={daemon.pid}", *command.split()], check=True, capture_output=True, timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="record what is measured")
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--locks", type=int, default=8, metavar="N", help="places of locked instructions to show (8)")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="show the N dearest functions of each shape")
    args = parser.parse_args()
    need(("valgrind", "valgrind"), ("objdump", "binutils"), ("cc", "gcc"))
    binary = shardgate()
    expected = tomllib.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    failures = []
    with tempfile.TemporaryDirectory(prefix="shardgate-instructions-") as directory:
        directory = pathlib.Path(directory)
        must_be_free(PORT, PORT + 500, *ORIGINS)
        origin = spawn([compiled(HERE.parent / "support/origin.c", directory), *ORIGINS], directory / "origin.log")
        try:
            wait_for(ORIGINS[0], origin)
            disassembly = callgrind.Disassembly()
            for shape in args.shape or SHAPES:
                executed, inclusive = measure(binary, shape, directory)
                total = round(sum(executed.values()))
                locked = disassembly.locked(executed)
                was = expected.get(shape, {}).get("instructions")
                against = f"{total / was - 1:+.1%} to the recorded {was:,}" if was else "nothing recorded"
                print(f"{shape:10} {total:8,} instructions, {sum(locked.values()):5.1f} of them locked: {against}"
                      f"   ({SHAPES[shape][0]})", flush=True)
                callgrind.show_locked(locked, args.locks)
                if args.profile:
                    callgrind.show_profile(executed, inclusive, args.profile)
                if was is None and not args.update:
                    failures.append(f"{shape}: {total:,} instructions, nothing recorded; see --update")
                elif was and total > was * (1 + TOLERANCE):
                    failures.append(f"{shape}: {total:,} instructions, recorded are {was:,}: {total / was - 1:+.1%}")
                elif was and total < was * (1 - TOLERANCE) and not args.update:
                    print(f"{shape}: much less than recorded; --update keeps it so")
                expected[shape] = {"instructions": total, "locked": round(sum(locked.values()), 1)}
        finally:
            stop(origin)
    if args.update:
        lines = ["# User instructions per request, written by `just instructions --update`: over 3 % more fails.",
                 "# `locked` is told, not checked. Toolchain and C library matter: a new one wants new figures."]
        lines += [f"{s} = {{ instructions = {e['instructions']}, locked = {e['locked']} }}" for s, e in expected.items()]
        EXPECTED.write_text("\n".join(lines) + "\n")
    elif failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
