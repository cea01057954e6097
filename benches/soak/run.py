#!/usr/bin/env python3
"""The release binary under mixed load with faults, for a long time: does it keep its memory, its descriptors, its word?

wrk asks for small answers as fast as it can; clients of our own (load.py) get 64 KiB answers, post 16 KiB, connect anew for
each request, go away in the middle, and read slowly. One asset has three servers of which one is killed every minute, with
requests in hand, and started again ten seconds later; SIGHUP comes every 20 s, with one of two configurations in turn.
Access log to /dev/null.

    benches/soak/run.py [MINUTES]      (20; may be a fraction)

Prints a line per minute. Fails if resident memory (median of the last quarter) is over 10 % + 4 MiB above that of the second
quarter; if it has more descriptors open when all is over and idle than before; if a reload failed; or if a client got an
error that it should not have got: any but a POST to a server that was killed. Not for continuous integration.
"""
import argparse
import asyncio
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from soak.load import Load  # noqa: E402
from support.process import compiled, get, must_be_free, need, shardgate, spawn, stop, wait_for, write  # noqa: E402

PORT, ADMIN = 24001, 24501
ORIGINS = {"BTC": [24101, 24102, 24103], "ETH": [24111, 24112, 24113], "DOGE": [24121, 24122, 24123]}
STEADY, FLAPPING = "BTC", "ETH"
SAMPLE_SECONDS, RELOAD_SECONDS, KILL_SECONDS, DEAD_SECONDS = 5, 20, 60, 10
IDLE_SECONDS = 45  # at the end, for it to close what it keeps for a while
# Who may see an error: a POST that a killed server may have begun is not repeated.
MAY_FAIL = {"abort", "post-flapping"}
CONFIG = """
[[listeners]]
bind = "127.0.0.1:{port}"
[admin]
bind = "127.0.0.1:{admin}"
[log]
access = "/dev/null"
[[routes]]
path = "/v1/predict/{{asset}}"
[[routes]]
path = "/v1/predict/{{asset}}/{{*rest}}"
[regions.here]
[defaults.retry]
budget_percent = 100   # with few requests in flight, all of them may be at the server that is killed
"""


class Soak:
    def __init__(self, directory, seconds):
        self.directory, self.seconds = directory, seconds
        self.samples = []
        self.reloads = 0
        self.processes = {}

    def start(self):
        must_be_free(PORT, ADMIN, *(port for ports in ORIGINS.values() for port in ports))
        self.origin = compiled(HERE.parent / "support/origin.c", self.directory)
        for asset, ports in ORIGINS.items():
            for port in ports:
                self.start_origin(port)
        self.configure()
        command = [shardgate(), "run", "-c", self.directory / "shardgate.toml"]
        self.daemon = self.processes["shardgate"] = spawn(command, self.directory / "shardgate.log")
        wait_for(PORT, self.daemon)
        while "ready" not in get(ADMIN, "/readyz"):
            time.sleep(0.1)

    def start_origin(self, port):
        self.processes[port] = spawn([self.origin, port], self.directory / "origin.log")
        wait_for(port, self.processes[port])

    def stop(self):
        for process in self.processes.values():
            stop(process)

    def configure(self):
        """One of two configurations in turn: a server has another weight, and a pool comes and goes."""
        text = CONFIG.format(port=PORT, admin=ADMIN)
        odd = self.reloads % 2
        for asset, ports in ORIGINS.items():
            servers = [f'{{ address = "127.0.0.1:{port}", weight = {1 + odd * (port % 10 == 1)} }}' for port in ports]
            text += f"[pools.{asset}.here]\nprimaries = [{', '.join(servers)}]\n"
        if odd:
            text += f'[pools.SOL.here]\nprimaries = ["127.0.0.1:{ORIGINS[STEADY][0]}"]\n'
        write(self.directory / "next.toml", text).replace(self.directory / "shardgate.toml")

    async def reload_again(self):
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self.reloads += 1
            self.configure()
            self.daemon.send_signal(signal.SIGHUP)

    async def kill_again(self):
        at = 0
        await asyncio.sleep(min(15, self.seconds / 4))
        while True:
            port = ORIGINS[FLAPPING][at % 3]
            # Halted for a moment first, so that it dies with requests in hand.
            self.processes[port].send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.2)
            stop(self.processes[port])
            await asyncio.sleep(DEAD_SECONDS)
            await asyncio.to_thread(self.start_origin, port)
            await asyncio.sleep(KILL_SECONDS - DEAD_SECONDS)
            at += 1

    def sample(self):
        metrics = get(ADMIN, "/metrics")

        def total(name, labels=""):
            found = re.findall(rf"^shardgate_{name}(?:\{{[^}}]*{labels}[^}}]*\}})? (\S+)$", metrics, re.M)
            return int(sum(map(float, found)))

        status = pathlib.Path(f"/proc/{self.daemon.pid}/status").read_text()
        return {
            "rss": 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1]),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "descriptors": self.descriptors(),
            "requests": total("requests_total"),
            "5xx": total("requests_total", 'code="5xx"'),
            "limit_hits": total("limit_hits_total"),
            "reloads": total("config_reloads_total", 'result="success"'),
        }

    def descriptors(self):
        return len(list(pathlib.Path(f"/proc/{self.daemon.pid}/fd").iterdir()))

    async def quiet_descriptors(self):
        """The fewest of two seconds: a health check has one open for a moment."""
        seen = []
        for _ in range(20):
            seen.append(self.descriptors())
            await asyncio.sleep(0.1)
        return min(seen)

    async def sample_again(self, load):
        print("minute  requests   5xx limits  RSS MB  files threads  client errors")
        start, before, minute = time.monotonic(), self.sample(), []
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            sample = await asyncio.to_thread(self.sample)
            elapsed = time.monotonic() - start
            self.samples.append((elapsed, sample["rss"]))
            minute.append(sample)
            if elapsed // 60 > (elapsed - SAMPLE_SECONDS) // 60 or elapsed + SAMPLE_SECONDS > self.seconds:
                self.row(elapsed / 60, before, minute, load)
                before, minute = sample, []

    def row(self, minutes, before, minute, load):
        grown = [minute[-1][name] - before[name] for name in ("requests", "5xx", "limit_hits")]
        most = [max(sample[name] for sample in minute) for name in ("rss", "descriptors", "threads")]
        errors = ", ".join(f"{kind} {n}" for kind, n in load.failed.items()) or "none"
        print(f"{minutes:6.1f} {grown[0]:9,} {grown[1]:5} {grown[2]:6} {most[0] / 1e6:7.1f} {most[1]:6} {most[2]:7}  {errors}",
              flush=True)

    async def bulk(self):
        """What wrk complains of. Its connections ask for small answers of all assets."""
        command = ["wrk", "-t1", "-c16", f"-d{self.seconds:.0f}s", "--timeout", "30s"]
        command += ["-s", HERE.parent / "peers/assets.lua", f"http://127.0.0.1:{PORT}"]
        wrk = await asyncio.create_subprocess_exec(*map(str, command),
                                                   stdout=subprocess.PIPE, start_new_session=True)
        try:
            out = (await wrk.communicate())[0].decode()
        finally:
            if wrk.returncode is None:
                wrk.kill()
        return re.findall(r"(Socket errors.*|Non-2xx.*)", out) if "requests in" in out else [f"wrk said: {out}"]

    async def run(self):
        """Everything that is wrong after so many seconds."""
        before = await self.quiet_descriptors()
        load = Load(PORT, STEADY, FLAPPING)
        faults = [asyncio.create_task(work) for work in (self.reload_again(), self.kill_again(), self.sample_again(load))]
        complaints = await self.bulk()
        died = [task.exception() for task in faults if task.done()]
        for task in faults:
            task.cancel()
        await asyncio.wait_for(load.stop(), 120)
        print("client requests: " + ", ".join(f"{kind} {n:,}" for kind, n in sorted(load.done.items())))
        wrong = [f"wrk: {complaint}" for complaint in complaints] + [f"the soak itself: {e!r}" for e in died]
        wrong += [f"{n} errors of clients: {kind}" for kind, n in load.failed.items() if kind not in MAY_FAIL]
        wrong += load.examples
        wrong += [] if load.done["get"] else ["the clients got nothing done"]
        return wrong + await self.after(before)

    async def after(self, before):
        wrong = []
        begun = time.monotonic()
        while (left := await self.quiet_descriptors()) > before and time.monotonic() < begun + IDLE_SECONDS:
            pass
        print(f"descriptors: {before} before, {left} after {time.monotonic() - begun:.0f} s idle")
        if left > before:
            wrong.append(f"descriptors leak: {before} before, {left} when idle again")
        if (done := self.sample()["reloads"]) < self.reloads:
            wrong.append(f"{self.reloads} reloads asked for, {done} succeeded")
        if "panicked" in (self.directory / "shardgate.log").read_text(errors="replace"):
            wrong.append("it panicked; see its log above")
        quarter = self.seconds / 4
        quarters = [[rss for t, rss in self.samples if t // quarter == q] for q in (1, 3)]
        if not all(quarters):
            return wrong + ["too short to compare quarters"]
        second, last = map(statistics.median, quarters)
        print(f"resident memory: {second / 1e6:.1f} MB in the second quarter, {last / 1e6:.1f} MB in the last")
        if last > second * 1.10 + (4 << 20):
            wrong.append(f"memory grows: {second / 1e6:.1f} MB in the second quarter, {last / 1e6:.1f} MB in the last")
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=20)
    minutes = parser.parse_args().minutes
    need(("wrk", "wrk"), ("cc", "gcc"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="shardgate-soak-") as directory:
        soak = Soak(pathlib.Path(directory), minutes * 60)
        try:
            soak.start()
            wrong = asyncio.run(soak.run())
            if wrong:
                tail = (soak.directory / "shardgate.log").read_text(errors="replace").splitlines()[-8:]
                print("\n".join(["the end of its log:", *tail]), file=sys.stderr)
        finally:
            soak.stop()
    if wrong:
        sys.exit("\n".join(["FAILED", *wrong]))
    print("passed")


if __name__ == "__main__":
    main()
