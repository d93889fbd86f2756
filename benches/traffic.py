"""What benches send a gateway, one request after the other, and the service behind it."""

import base64
import os
import re
import socket
import subprocess
import threading
from dataclasses import dataclass

from wire import Http1, Http2, read_message

# A route with tokens and one without. `{service}` is the service's port.
CONFIG = """
workers = 1
[[listeners]]
address = "127.0.0.1:{port}"
[[issuers]]
issuer = "https://id.example.com"
audiences = ["orders"]
jwks_file = "keys/jwks.json"
[issuers.headers]
x-user-id = "sub"
[[routes]]
path = "/"
upstream = "http://127.0.0.1:{service}"
[[routes]]
path = "/public"
upstream = "http://127.0.0.1:{service}"
auth = "public"
[denylist]
path = "denylist.log"
[telemetry]
access_log = {access_log}
[telemetry.log]
format = "json"
"""


class Service:
    """Answers each request with 1 KiB, or as many bytes as `/bytes/N` says, head and body in one piece, and counts."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.seen = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        rest = b""
        while True:
            head, rest = read_message(stream, rest)
            if head is None:
                return
            self.seen += 1
            asked = re.match(rb"\S+ /bytes/(\d+)", head)
            length = int(asked[1]) if asked else 1024
            stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % length + b"x" * length)


@dataclass
class Kind:
    """One kind of traffic. The tokens are sent in turn."""

    name: str
    tokens: list
    status: int = 401
    path: str = "/"
    client: type = Http1


def kinds(program, folder, many):
    """With fresh keys, and `many` tokens of the kind that has many."""
    # A program that is being watched writes down each of its runs; these are not meant.
    quiet = os.environ | {"LLVM_PROFILE_FILE": os.devnull}
    keys = {}
    for name in ("keys", "other"):
        keys[name] = folder / name
        subprocess.run([program, "keys", "generate", "--alg", "RS256", "--out", keys[name]], check=True, stdout=subprocess.DEVNULL, env=quiet)

    def mint(*more, key="keys"):
        fixed = ["--key", keys[key] / "private.pem", "--alg", "RS256", "--issuer", "https://id.example.com", "--audience", "orders"]
        claims = ["--subject", "alice", "--claim", "scope=orders:read orders:write", "--expires-in", "1h"]
        return subprocess.check_output([program, "token", "mint", *fixed, *claims, *more], text=True, env=quiet).strip()

    good = mint("--claim", "sid=s1")
    # The signature of another token: form and key are right.
    forged = good.rpartition(".")[0] + "." + mint("--claim", "sid=s2").rpartition(".")[2]
    assert len(base64.urlsafe_b64decode(forged.rpartition(".")[2] + "==")) == 256
    return [
        Kind("hot token", [good], 200),
        Kind(f"{many:,} tokens", [mint("--claim", f"sid=s{number}") for number in range(many)], 200),
        Kind("HTTP/2 hot token", [good], 200, client=Http2),
        Kind("public route", [None], 200, path="/public"),
        Kind("no token", [None]),
        Kind("expired", [mint("--claim", "sid=s1", "--claim", "iat=1000", "--claim", "exp=2000")]),
        Kind("wrong audience", [mint("--claim", "sid=s1", "--claim", "aud=invoices")]),
        Kind("unknown key", [mint("--claim", "sid=s1", key="other")]),
        Kind("bad signature", [forged]),
    ]
