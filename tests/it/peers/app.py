"""A tiny ASGI application, served by uvicorn: a backend that was not written by us.

PEER_NAME names it; it stands in every answer. For each POST the body (an id) is appended to the file PEER_LOG, so that a
test can compare what backends got with what clients sent.
"""

import os

NAME = os.environ["PEER_NAME"].encode()
LOG = open(os.environ["PEER_LOG"], "ab", buffering=0)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["method"] == "POST":
        LOG.write(body + b"\n")
    answer = NAME + b" " + scope["method"].encode() + b" " + scope["raw_path"] + b" " + body
    headers = [(b"content-type", b"text/plain"), (b"x-peer", NAME), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
