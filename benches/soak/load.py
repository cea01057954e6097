"""The clients of the soak: each kind asks in its own way, over and over, and counts what went well and what did not."""
import asyncio
import collections
import random
import socket
import struct

PATIENCE = 30  # seconds for one request; a proxy that needs longer has lost it
SMALL, BIG, LARGE = 128, 64 << 10, 1 << 20


class Failed(Exception):
    """The client got something else than its answer."""


class Load:
    def __init__(self, port, steady, flapping):
        self.port, self.steady, self.flapping = port, steady, flapping
        self.done, self.failed = collections.Counter(), collections.Counter()
        self.examples = []
        self.stopping = False
        kinds = [(self.kept, "get", 8), (self.kept, "get-64k", 4), (self.kept, "post", 4), (self.kept, "post-flapping", 2),
                 (self.new, "get-new", 4), (self.abort, "abort", 4), (self.slow, "slow", 20)]
        self.tasks = [asyncio.create_task(self.again(act, kind)) for act, kind, count in kinds for _ in range(count)]

    async def again(self, act, kind):
        while not self.stopping:
            try:
                await act(kind)
            except (Failed, OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as e:
                self.failed[kind] += 1
                if len(self.examples) < 20 and not kind.startswith(("abort", "post-flapping")):
                    self.examples.append(f"{kind}: {e!r}")
                await asyncio.sleep(0.1)

    async def stop(self):
        self.stopping = True
        await asyncio.gather(*self.tasks)

    def asset(self, kind):
        """A backend that dies may have begun a POST, which is not repeated, or be in the middle of a long answer."""
        if kind == "post-flapping":
            return self.flapping
        return self.steady if kind in ("post", "slow", "get-64k") else random.choice((self.steady, self.flapping))

    def request(self, kind):
        path = f"/v1/predict/{self.asset(kind)}"
        if kind.startswith("post"):
            return f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Length: 16384\r\n\r\n".encode() + b"x" * 16384, SMALL
        below, size = {"get-64k": ("/64k", BIG), "slow": ("/1m", LARGE)}.get(kind, ("", SMALL))
        return f"GET {path}{below} HTTP/1.1\r\nHost: soak\r\n\r\n".encode(), size

    async def kept(self, kind):
        """A hundred requests on one connection."""
        async with Connection(self.port) as connection:
            for _ in range(100):
                if self.stopping:
                    return
                await connection.ask(*self.request(kind))
                self.done[kind] += 1
                await asyncio.sleep(random.random() * 0.02)

    async def new(self, kind):
        async with Connection(self.port) as connection:
            await connection.ask(*self.request(kind))
            self.done[kind] += 1

    async def slow(self, kind):
        """Takes 160 KB/s, through a small window."""
        async with Connection(self.port, window=4096) as connection:
            request, size = self.request(kind)
            connection.writer.write(request)
            await connection.head()
            left = size
            while left > 0:
                left -= len(await connection.some(16384))
                await asyncio.sleep(0.1 if not self.stopping else 0)
            self.done[kind] += 1

    async def abort(self, kind):
        """Goes away in the middle: of a head, of a body that it sends, before an answer, or within a long one."""
        connection = Connection(self.port)
        async with connection:
            get, _ = self.request("slow")
            post, _ = self.request("post")
            connection.writer.write(random.choice((get[:20], post[:9000], get, get)))
            await asyncio.sleep(random.random() * 0.05)
            if random.random() < 0.5:  # with a reset; else in an orderly way
                connection.reset()
        self.done[kind] += 1


class Connection:
    def __init__(self, port, window=None):
        self.port, self.window = port, window

    async def __aenter__(self):
        sock = socket.socket()
        sock.setblocking(False)
        if self.window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=16384)
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass  # it was reset, by us or by the other side; who needs its answer has noticed

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def some(self, size):
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(size) or self.broken("the answer was cut short")

    async def head(self):
        """Reads the head; what came of the body with it stays in the reader."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            self.broken(head.decode("latin1"))


    async def ask(self, request, size):
        self.writer.write(request)
        await self.head()
        async with asyncio.timeout(PATIENCE):
            await self.reader.readexactly(size)

    def broken(self, why):
        raise Failed(why)
