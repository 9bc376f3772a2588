"""A file server that can misbehave in every way that a download must survive."""

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

BODY = random.Random(3).randbytes(3_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``body`` at every address, as well or as badly as configured."""

    body = BODY
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges = True  # does it support Range?
    status: int | None = None  # answers with this instead
    stop_after: int | None = None  # bytes of the body, then it closes the connection
    length = True  # does it send Content-Length?
    chunked = False
    content_type = "application/octet-stream"
    content_range: str | None = None  # sends this instead of the true value

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []  # their Range
        self.url = f"http://127.0.0.1:{self.server_port}/records/base.pth?download=1"

    def handle_error(self, request: object, client_address: object) -> None:
        """The client may hang up in the middle of an answer: this is what is tested."""

    @contextmanager
    def running(self) -> Iterator[Self]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        with self:
            thread.start()
            yield self
            self.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        self.close_connection = True
        start = self._start(asked)
        if server.status:
            self.send_error(server.status)
        elif start is not None and start >= len(server.body):
            self._answer(416, b"", f"bytes */{len(server.body)}")
        elif start is not None:
            last = len(server.body) - 1
            self._answer(206, server.body[start:], f"bytes {start}-{last}/{last + 1}")
        else:
            self._answer(200, server.body, None)

    def _start(self, asked: str | None) -> int | None:
        """Where the answer starts, for a partial one."""
        version = self.server.etag or self.server.modified
        if asked and self.server.ranges and self.headers.get("If-Range") == version:
            return int(asked.removeprefix("bytes=").removesuffix("-"))
        return None

    def _answer(self, status: int, body: bytes, content_range: str | None) -> None:
        server = self.server
        headers = {
            "Content-Type": server.content_type,
            "Content-Length": str(len(body)) if server.length and not server.chunked else None,
            "Transfer-Encoding": "chunked" if server.chunked else None,
            "ETag": server.etag,
            "Last-Modified": server.modified,
            "Content-Range": server.content_range or content_range,
        }
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        cut = body[: server.stop_after]
        if server.chunked:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(cut), cut))
            self.wfile.write(b"0\r\n\r\n" if len(cut) == len(body) else b"")
        else:
            self.wfile.write(cut)
