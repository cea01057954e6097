"""A WebSocket server that was not written by us: it sends back what it gets. Its port stands on its first line.

A text `close N REASON` has it close with that code, `ping` has it ping and say when the answer came.
"""

import asyncio
import sys

import websockets
from websockets.asyncio.server import serve


async def echo(connection):
    try:
        async for message in connection:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await connection.close(int(code), reason)
            elif message == "ping":
                await (await connection.ping(b"are you there"))
                await connection.send("pong came")
            else:
                await connection.send(message)
    except websockets.ConnectionClosed:
        pass


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
