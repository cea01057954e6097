"""A server and a client of gRPC, for tests/it/grpc.rs: grpcio at both ends, messages of raw bytes.

    grpc_peer.py serve NAME          says `listening PORT`, and serves /test.Echo until its end
    grpc_peer.py call ADDRESS CASE   makes the calls of a case and says what came of them, as JSON
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

ASSET = ("x-asset", "BTC")
RAW = {"request_deserializer": None, "response_serializer": None}


class Echo:
    """What the server does."""

    def __init__(self, name):
        self.name = name
        self.cancelled = 0

    def unary(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-peer", self.name), ("x-seen", seen.get("x-mine", "-"))))
        context.set_trailing_metadata((("x-after", "yes"), ("x-after-bin", b"\x00\xff")))
        return request

    def server(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def client(self, requests, context):
        total = sum(len(request) for request in requests)
        return b"%d" % total

    def bidi(self, requests, context):
        count = 0
        for request in requests:
            count += 1
            yield b"echo " + request
        # The client has said all: one more word.
        yield b"%d in all" % count

    def eager(self, requests, context):
        # Says a lot before it reads anything.
        for _ in range(64):
            yield b"x" * 65536
        yield b"%d" % sum(len(request) for request in requests)

    def fail(self, request, context):
        context.set_trailing_metadata((("x-after", "yes"),))
        context.abort(grpc.StatusCode[request.decode()], "d\u00e9tails: 100%")

    def slow(self, request, context):
        context.send_initial_metadata((("x-left", str(context.time_remaining())),))
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(20)
        return b"late"

    def hang(self, request, context):
        over = threading.Event()
        context.add_callback(over.set)
        yield b"begun"
        self.cancelled += over.wait(20)

    def count(self, request, context):
        return b"%d" % self.cancelled


def serve(name):
    echo = Echo(name)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
        "Server": grpc.unary_stream_rpc_method_handler(echo.server),
        "Client": grpc.stream_unary_rpc_method_handler(echo.client),
        "Bidi": grpc.stream_stream_rpc_method_handler(echo.bidi),
        "Eager": grpc.stream_stream_rpc_method_handler(echo.eager),
        "Fail": grpc.unary_unary_rpc_method_handler(echo.fail),
        "Slow": grpc.unary_unary_rpc_method_handler(echo.slow),
        "Hang": grpc.unary_stream_rpc_method_handler(echo.hang),
        "Count": grpc.unary_unary_rpc_method_handler(echo.count),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")}
    server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("test.Echo", handlers),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("listening", port, flush=True)
    server.wait_for_termination()


def status(error):
    return [error.code().name, error.details()]


def unary(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    big = bytes(range(256)) * 12000
    answer, rpc = call.with_call(big, metadata=(ASSET, ("x-mine", "here")), timeout=20)
    return {
        "same": answer == big,
        "initial": {key: value for key, value in rpc.initial_metadata() if key.startswith("x-")},
        "after": [value.hex() if isinstance(value, bytes) else value for _, value in rpc.trailing_metadata()],
        "status": rpc.code().name,
    }


def streams(channel):
    out = {}
    got = list(channel.unary_stream("/test.Echo/Server")(b"1000", metadata=(ASSET,), timeout=20))
    out["server"] = got == [b"%d" % number for number in range(1000)]
    out["client"] = int(
        channel.stream_unary("/test.Echo/Client")((b"x" * 1000 for _ in range(1000)), metadata=(ASSET,), timeout=20)
    )
    # Each message only after the answer to the one before.
    turn = threading.Semaphore(1)

    def ask():
        for number in range(50):
            assert turn.acquire(timeout=10)
            yield b"%d" % number

    answers = []
    for answer in channel.stream_stream("/test.Echo/Bidi")(ask(), metadata=(ASSET,), timeout=20):
        answers.append(answer)
        turn.release()
    out["bidi"] = answers == [b"echo %d" % number for number in range(50)] + [b"50 in all"]
    # The server says much before it reads, and the client reads nothing before it has said all.
    said = threading.Event()

    def much():
        for _ in range(64):
            yield b"y" * 65536
        said.set()

    call = channel.stream_stream("/test.Echo/Eager")(much(), metadata=(ASSET,), timeout=20)
    out["eager"] = [len(answer) for answer in call][-1]
    return out


def fail(channel):
    out = {}
    for code in ["UNAVAILABLE", "NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED"]:
        try:
            channel.unary_unary("/test.Echo/Fail")(code.encode(), metadata=(ASSET,), timeout=20)
        except grpc.RpcError as error:
            out[code] = status(error) + [dict(error.trailing_metadata()).get("x-after")]
    try:
        channel.unary_unary("/test.Echo/Unary")(b"", metadata=(("x-asset", "NONE"),), timeout=20)
    except grpc.RpcError as error:
        out["asset"] = status(error)
    try:
        channel.unary_unary("/test.Echo/Nothing")(b"", metadata=(ASSET,), timeout=20)
    except grpc.RpcError as error:
        out["method"] = error.code().name
    return out


def deadline(channel):
    call = channel.unary_unary("/test.Echo/Slow").future(b"", metadata=(ASSET,), timeout=0.7)
    error = call.exception()
    left = float(dict(call.initial_metadata() or ()).get("x-left", "nan"))
    return {"status": error.code().name, "left": left}


def cancel(channel):
    call = channel.unary_stream("/test.Echo/Hang")(b"", metadata=(ASSET,))
    assert next(call) == b"begun"
    call.cancel()
    count = channel.unary_unary("/test.Echo/Count")
    end = time.monotonic() + 15
    while (seen := int(count(b"", metadata=(ASSET,), timeout=20))) == 0 and time.monotonic() < end:
        time.sleep(0.01)
    return {"cancelled": seen}


def unavailable(channel):
    try:
        channel.unary_unary("/test.Echo/Unary")(b"", metadata=(ASSET,), timeout=20)
    except grpc.RpcError as error:
        return status(error)
    return None


def many(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    calls = [call.future(b"%d" % number, metadata=(ASSET,), timeout=20) for number in range(500)]
    return {"same": all(rpc.result() == b"%d" % number for number, rpc in enumerate(calls))}


def main():
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
        return
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(sys.argv[2], options=options) as channel:
        print(json.dumps(globals()[sys.argv[3]](channel)))


if __name__ == "__main__":
    main()
