"""What the scripts under benches/ share: programs they need, processes, ports, memory."""
import functools
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# What a process may have open here. Children inherit the soft limit, and a thousand is soon used up.
FILES = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.environ["PATH"] += ":/usr/sbin:/sbin"


def need(*pairs):
    """Programs with their Debian packages; what is missing is installed where that is allowed."""
    missing = [(command, package) for command, package in pairs if not shutil.which(command)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # install, but start no service
        for command in (["update"], ["install", "-y", "--no-install-recommends", *(p for _, p in missing)]):
            subprocess.run(["apt-get", "-qq", *command], check=True, stdout=subprocess.DEVNULL, env=env)
    elif missing:
        sys.exit("missing: " + ", ".join(f"{command} (Debian's package {package})" for command, package in missing))


@functools.cache
def shardgate():
    """The release binary: the one that SHARDGATE names, else this tree's, built if need be."""
    if "SHARDGATE" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked"], check=True, cwd=ROOT)
    binary = pathlib.Path(os.environ.get("SHARDGATE", ROOT / "target/release/shardgate")).resolve()
    if not binary.exists():
        sys.exit(f"no such file: {binary}")
    return binary


def compiled(source, directory):
    binary = pathlib.Path(directory) / source.stem
    subprocess.run(["cc", "-O2", "-Wall", "-o", binary, source], check=True)
    return binary


def write(path, text):
    path.write_text(text)
    return path


def spawn(command, log):
    """A process in a session of its own, so that `stop` ends what it started, too."""
    with open(log, "ab") as out:
        return subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                start_new_session=True)


def stop(process, sign=signal.SIGKILL):
    try:
        os.killpg(process.pid, sign)
    except ProcessLookupError:
        pass
    process.wait()


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def must_be_free(*ports):
    """Another run of the same script would answer in our place."""
    if used := [port for port in ports if listening(port)]:
        sys.exit(f"ports in use: {used}; does this script run already?")


def wait_for(port, process, seconds=20):
    deadline = time.monotonic() + seconds
    while not listening(port):
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended with {process.returncode} before it listened on {port}")
        if time.monotonic() > deadline:
            sys.exit(f"nothing listens on {port}")
        time.sleep(0.05)


def get(port, path, seconds=10):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=seconds) as answer:
        return answer.read().decode()


def family(pid):
    """The process and its descendants: nginx's workers are children."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *(p for child in children for p in family(int(child)))]


def private_memory(pid):
    """Private memory of the process and its descendants, in bytes: what would be freed if they ended."""
    total = 0
    for one in family(pid):
        rollup = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text()
        total += 1024 * sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.M))
    return total
