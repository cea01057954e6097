"""WebSocket clients that were not written by us, against a server that sends back what it gets. Says `ok` at the end."""

import asyncio
import sys

import websockets
from websockets.asyncio.client import connect


async def one(uri):
    async with connect(uri, max_size=None) as connection:
        for message in ["a", "", "\u00e4\u20ac", b"", b"\x00\xff" * 1000, "x" * 65535, b"y" * 65536]:
            await connection.send(message)
            assert await connection.recv() == message
        await connection.send(["frag", "men", "ted"])
        assert await connection.recv() == "fragmented"
        await connection.send("ping")
        assert await connection.recv() == "pong came"
        await (await connection.ping(b"and you"))


async def large(uri, compression):
    async with connect(uri, max_size=None, compression=compression) as connection:
        message = bytes(range(256)) * 4096
        for _ in range(4):
            await connection.send(message)
        for _ in range(4):
            assert await connection.recv() == message


async def closes(uri):
    for code, reason in [(1000, "done"), (1001, "bye"), (3999, "x"), (4321, "r" * 120)]:
        async with connect(uri) as connection:
            await connection.send(f"close {code} {reason}")
            try:
                await connection.recv()
                raise AssertionError("it did not close")
            except websockets.ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (code, reason), closed
        async with connect(uri) as connection:
            await connection.close(code, reason)
            assert connection.close_code == code


async def going_away(uri):
    async with connect(uri) as connection:
        await connection.send("here")
        assert await connection.recv() == "here"
        print("open", flush=True)
        try:
            await connection.recv()
            raise AssertionError("it did not close")
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == 1001, closed


async def main(uri, what):
    if what == "drain":
        await going_away(uri)
    else:
        await one(uri)
        await large(uri, None)
        await large(uri, "deflate")
        await closes(uri)
        await asyncio.gather(*(one(uri) for _ in range(100)))
    print("ok", flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2]))
