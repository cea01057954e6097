"""A client of HTTP/2 whose work is the same each time: so many streams at once, all of them answered before the next."""
import struct
import sys

STREAMS = 100
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK = 1, 1
# Windows as wide as they go, so that none is ever waited for.
WIDE = (1 << 31) - 1
SIZE = 1 << 20


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Client:
    def __init__(self, connection, authority, path, size):
        self.connection, self.size, self.stream, self.rest, self.read = connection, size, 1, b"", 0
        # GET and http by HPACK's table, path and authority as they are.
        self.block = b"\x82\x86\x04" + bytes([len(path)]) + path.encode() + b"\x01" + bytes([len(authority)]) + authority.encode()
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WIDE))
                           + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WIDE - 65535)))

    def frames(self):
        got = self.rest + (self.connection.recv(SIZE) or sys.exit("the connection was closed"))
        at = 0
        while len(got) - at >= 9:
            length = int.from_bytes(got[at:at + 3], "big")
            if len(got) - at < 9 + length:
                break
            yield got[at + 3], got[at + 4], got[at + 9:at + 9 + length]
            at += 9 + length
        self.rest = got[at:]

    def ask(self, times):
        """So many requests, a multiple of STREAMS."""
        for _ in range(times // STREAMS):
            numbers = range(self.stream, self.stream + 2 * STREAMS, 2)
            self.stream = numbers.stop
            self.connection.sendall(b"".join(frame(HEADERS, 5, number, self.block) for number in numbers))
            open_streams, left = STREAMS, STREAMS * self.size
            while open_streams > 0:
                for kind, flags, payload in self.frames():
                    if kind == SETTINGS and not flags & ACK:
                        self.connection.sendall(frame(SETTINGS, ACK, 0))
                    elif kind == HEADERS and payload[0] != 0x88 or kind in (RST_STREAM, GOAWAY):
                        sys.exit(f"not the answer that was expected: {kind} {payload[:20]}")
                    elif kind == DATA:
                        left -= len(payload)
                        self.read += len(payload)
                    open_streams -= kind in (DATA, HEADERS) and flags & END_STREAM
            if left:
                sys.exit(f"{left} bytes are missing")
            if self.read > WIDE // 2:
                self.connection.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self.read)))
                self.read = 0
