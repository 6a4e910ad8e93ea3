"""A server before a store's, which never answers to the put of a part."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


class Stalling(BaseHTTPRequestHandler):
    """Forwards requests, and holds those that put a part.

    Attributes:
        address: Of the store's server.
        sign: A file that is made when a request is held.
    """

    protocol_version = "HTTP/1.1"
    address: ClassVar[str]
    sign: ClassVar[Path]

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT" and "/part-" in self.path and "_manifest" not in self.path:
            self.sign.touch()
            threading.Event().wait()
        connection = http.client.HTTPConnection(self.address)
        # Signatures are of the host that the run knows; moto does not compare them.
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        length = answer.headers.get("Content-Length", "0")
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815  # http.server's names

    def log_message(self, format: str, *arguments: object) -> None:
        return


@contextmanager
def stalling(endpoint: str, sign: Path) -> Iterator[str]:
    """The address of such a server, in a fork of this process."""
    ready, report = os.pipe()
    pid = os.fork()
    if not pid:
        Stalling.address, Stalling.sign = endpoint.removeprefix("http://"), sign
        server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
        os.write(report, f"http://127.0.0.1:{server.server_port}".encode())
        server.serve_forever()
    try:
        yield os.read(ready, 1000).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(report)
