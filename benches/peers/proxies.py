"""The proxies side by side, each with one worker on core 0, and what they have in front and behind on core 1.

Each is set up as fast as we could make it for this work: keep-alive pools large enough for every connection, no log, and
buffers by measurement. nginx: a first buffer that takes a 64 KiB answer whole (16 KiB cost 1.2 times as much there), request
bodies in memory and sent on whole (proxy_request_buffering off was no faster, with smaller buffers slower), never a file.
HAProxy: a buffer that just takes a 16 KiB post with its head (a smaller one cost 1.6 times as much there, 32 KiB 1.2 times
on 64 KiB answers), and splicing of what is larger (1 MiB answers: a third). Three assets with three origins each, chosen by
the path; X-Forwarded-For is added.
"""
import pathlib
import re
import subprocess

from support.process import (FILES, compiled, family, must_be_free, private_memory, shardgate, spawn, stop, wait_for,
                             write)

HERE = pathlib.Path(__file__).resolve().parent
ASSETS = ["BTC", "ETH", "DOGE"]
ORIGIN_PORTS = {asset: [20000 + 10 * i + k for k in range(3)] for i, asset in enumerate(ASSETS)}
PORTS = {"shardgate": 21001, "nginx": 21002, "haproxy": 21003, "relay": 21004}
LOGGING = "+log"  # after a name: the same proxy with an access log in a file
PORTS |= {name + LOGGING: PORTS[name] + 100 for name in ("shardgate", "nginx", "haproxy")}
ADMIN = 500  # above shardgate's port
TLS = 1000  # above a proxy's port: the same over TLS, HTTP/2 by ALPN


def pinned(core, *command):
    return ["taskset", "-c", str(core), *map(str, command)]


class Proxies:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.processes = {}

    def spawn(self, name, core, *command):
        self.processes[name] = spawn(pinned(core, *command), self.directory / f"{name}.out")

    def start_origins(self):
        ports = [port for ports in ORIGIN_PORTS.values() for port in ports]
        must_be_free(*ports, *PORTS.values(), *(port + TLS for port in PORTS.values()))
        self.certificate()
        self.spawn("origin", 1, compiled(HERE.parent / "support/origin.c", self.directory), *ports)
        wait_for(ports[0], self.processes["origin"])

    def certificate(self):
        """One of P-256, as most are; HAProxy wants it and its key in one file."""
        cert, key = self.directory / "site.pem", self.directory / "site.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
        write(self.directory / "both.pem", cert.read_text() + key.read_text())

    def start(self, name):
        kind = name.removesuffix(LOGGING)
        getattr(self, f"start_{kind}")(name, PORTS[name], name != kind)
        wait_for(PORTS[name], self.processes[name])

    def restart(self, name):
        """Anew, so that what other scenarios left behind in its memory counts neither for nor against it."""
        self.stop(name)
        self.start(name)

    def start_shardgate(self, name, port, log):
        pools = "".join(
            f"[pools.{asset}.here]\nprimaries = [{', '.join(f'{chr(34)}127.0.0.1:{p}{chr(34)}' for p in ports)}]\n"
            for asset, ports in ORIGIN_PORTS.items()
        )
        conf = f"""
[server]
workers = 1
[[listeners]]
bind = "127.0.0.1:{port}"
[[listeners]]
bind = "127.0.0.1:{port + TLS}"
[[listeners.tls.certificates]]
cert = "{self.directory}/site.pem"
key = "{self.directory}/site.key"
[admin]
bind = "127.0.0.1:{port + ADMIN}"
[log]
access = "{self.directory / f'{name}.access' if log else 'off'}"
[[routes]]
path = "/v1/predict/{{asset}}"
[[routes]]
path = "/v1/predict/{{asset}}/{{*rest}}"
[regions.here]
[defaults.timeouts]
keepalive = "300s"
{pools}"""
        self.spawn(name, 0, shardgate(), "run", "-c", write(self.directory / f"{name}.toml", conf))

    def start_nginx(self, name, port, log):
        upstreams = "".join(
            f"upstream {asset} {{ {''.join(f'server 127.0.0.1:{p};' for p in ports)} keepalive 1024; "
            "keepalive_requests 100000000; keepalive_timeout 600s; }\n"
            for asset, ports in ORIGIN_PORTS.items()
        )
        locations = "".join(f"location /v1/predict/{a} {{ proxy_pass http://{a}; }}\n" for a in ASSETS)
        access = f"{self.directory}/{name}.access combined buffer=64k flush=1s" if log else "off"
        conf = f"""
user root; worker_processes 1; daemon off; pid {self.directory}/{name}.pid; error_log {self.directory}/{name}.err;
worker_rlimit_nofile {FILES};
events {{ worker_connections {FILES}; }}
http {{
  access_log {access}; keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on;
  client_max_body_size 16m; client_body_buffer_size 2m; client_body_temp_path {self.directory}/{name}.bodies;
  proxy_temp_path {self.directory}/{name}.temporary; proxy_max_temp_file_size 0;
  proxy_buffer_size 256k; proxy_buffers 4 256k; proxy_busy_buffers_size 512k;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  {upstreams}
  ssl_certificate {self.directory}/site.pem; ssl_certificate_key {self.directory}/site.key; ssl_protocols TLSv1.2 TLSv1.3;
  http2_max_concurrent_streams 128;
  server {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{port + TLS} ssl http2 backlog=4096; {locations} }}
}}"""
        self.spawn(name, 0, "nginx", "-c", write(self.directory / f"{name}.conf", conf))

    def start_haproxy(self, name, port, log):
        backends = "".join(
            f"backend {asset}\n  balance leastconn\n  http-reuse always\n"
            + "".join(f"  server s{p} 127.0.0.1:{p} pool-max-conn 1024\n" for p in ports)
            for asset, ports in ORIGIN_PORTS.items()
        )
        uses = "".join(f"  use_backend {a} if {{ path_beg /v1/predict/{a} }}\n" for a in ASSETS)
        # It has no log in a file: the nearest is standard output, which leads to one.
        conf = f"""
global
  nbthread 1
  maxconn {(FILES - 180) // 2}
  maxpipes 64
  tune.bufsize 20480
  {"log stdout format raw daemon" if log else ""}
defaults
  mode http
  timeout client 600s
  timeout server 60s
  timeout connect 5s
  timeout http-keep-alive 600s
  option forwardfor
  option splice-response
  option splice-request
  {"option httplog" if log else ""}
  {"log global" if log else ""}
frontend f
  bind 127.0.0.1:{port} backlog 4096
  bind 127.0.0.1:{port + TLS} ssl crt {self.directory}/both.pem alpn h2,http/1.1 backlog 4096
{uses}{backends}"""
        self.spawn(name, 0, "haproxy", "-db", "-f", write(self.directory / f"{name}.cfg", conf))

    def start_relay(self, name, port, _):
        self.spawn(name, 0, compiled(HERE / "relay.c", self.directory), port, ORIGIN_PORTS["BTC"][0])

    def cpu_seconds(self, name):
        """CPU time of all its threads and of its children (nginx's workers)."""
        return sum(
            int((task / "schedstat").read_text().split()[0]) / 1e9
            for pid in family(self.processes[name].pid)
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
        )

    def memory(self, name):
        return private_memory(self.processes[name].pid)

    def peak_memory(self, name):
        status = [pathlib.Path(f"/proc/{p}/status").read_text() for p in family(self.processes[name].pid)]
        return 1024 * sum(int(re.search(r"VmHWM:\s+(\d+)", text)[1]) for text in status)

    def log_lines(self, name):
        suffix = "out" if name.startswith("haproxy") else "access"
        with open(self.directory / f"{name}.{suffix}", "rb") as lines:
            return sum(1 for _ in lines)

    def stop(self, *names):
        for name in names or list(self.processes):
            stop(self.processes.pop(name))
