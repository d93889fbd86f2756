"""HTTP as the benches speak it: over sockets, one request at a time, each answer read to its end."""

import re
import socket
import ssl
import struct


def read_message(stream, buffer):
    """One request or answer with its body, and what came after it."""
    while b"\r\n\r\n" not in buffer:
        more = stream.recv(65536)
        if not more:
            return None, b""
        buffer += more
    head, _, rest = buffer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    length = int(length[1]) if length else 0
    while len(rest) < length:
        more = stream.recv(65536)
        if not more:
            return None, b""
        rest += more
    return head, rest[length:]


def connect(address, tls, protocol):
    """`tls`: whether the connection has TLS. Whose certificate it is does not matter here."""
    stream = socket.create_connection(address, timeout=30)
    if not tls:
        return stream
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(stream)


class Http1:
    """One kept connection of HTTP/1.1."""

    def __init__(self, address, tls=False):
        self.stream = connect(address, tls, "http/1.1")

    def ask(self, path, token, body=None):
        """The status of the answer, when all of it is there. With a body it is a POST."""
        method, length = ("GET", "") if body is None else ("POST", f"content-length: {len(body)}\r\n")
        authorization = f"authorization: Bearer {token}\r\n" if token else ""
        lines = "accept: */*\r\nuser-agent: benches\r\n"
        head = f"{method} {path} HTTP/1.1\r\nhost: api.example.com\r\n{lines}{length}{authorization}\r\n"
        self.stream.sendall(head.encode() + (body or b""))
        head, rest = read_message(self.stream, b"")
        if head is None or rest:
            raise ConnectionError(f"no answer, or more than one: {head} {rest}")
        return int(head.split()[1])


class Http2:
    """One connection of HTTP/2 with one request at a time: the frames (RFC 9113), and as much of HPACK (RFC 7541) as it takes. As clients
    do, it refers to header lines that it has sent before."""

    DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
    END_STREAM, END_HEADERS, ACK = 1, 4, 1
    # Numbers of the static table (RFC 7541 appendix A): GET, http, `/`, and the status 200.
    GET, HTTP, ROOT, OK = 2, 6, 4, 8
    STATIC = 61

    def __init__(self, address, tls=False):
        self.stream, self.next, self.sent = connect(address, tls, "h2"), 1, []
        self.stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.frame(self.SETTINGS, 0, 0, b"")
        # Room for all answers: none of ours then counts the opening of windows.
        self.frame(self.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))

    def frame(self, kind, flags, stream, payload):
        self.stream.sendall(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)

    def exactly(self, count):
        got = b""
        while len(got) < count:
            more = self.stream.recv(count - len(got))
            if not more:
                raise ConnectionError("the HTTP/2 connection was closed")
            got += more
        return got

    def field(self, name, value):
        """By its number in the table if it was sent before, else in full, to be remembered. Values above 126 bytes take a longer number."""
        if (name, value) in self.sent:
            return bytes([0x80 | self.STATIC + 1 + self.sent.index((name, value))])
        self.sent.insert(0, (name, value))
        text = lambda word: (bytes([len(word)]) if len(word) < 127 else bytes([127]) + self.more(len(word) - 127)) + word
        return b"\x40" + text(name.encode()) + text(value.encode())

    @staticmethod
    def more(number):
        octets = []
        while number >= 128:
            octets.append(number % 128 + 128)
            number //= 128
        return bytes([*octets, number])

    def ask(self, path, token):
        """The status of the answer when all of it is there, or None for any other than 200."""
        assert path == "/" and token
        lines = {":authority": "api.example.com", "accept": "*/*", "user-agent": "benches", "authorization": f"Bearer {token}"}
        block = bytes(0x80 | number for number in (self.GET, self.HTTP, self.ROOT))
        self.frame(self.HEADERS, self.END_STREAM | self.END_HEADERS, self.next, block + b"".join(self.field(*line) for line in lines.items()))
        self.next += 2
        status = None
        while True:
            head = self.exactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = self.exactly(int.from_bytes(head[:3], "big"))
            if kind in (self.SETTINGS, self.PING) and not flags & self.ACK:
                self.frame(kind, self.ACK, 0, payload if kind == self.PING else b"")
            elif kind == self.HEADERS:
                # The first line is the status, unless the size of the table comes before it.
                block = payload.lstrip(bytes(range(0x20, 0x40)))
                status = 200 if block[0] == 0x80 | self.OK else None
            elif kind not in (self.DATA, self.SETTINGS, self.PING, self.WINDOW_UPDATE):
                raise ConnectionError(f"a frame {kind}, {payload}")
            if stream and flags & self.END_STREAM and kind in (self.DATA, self.HEADERS):
                return status
