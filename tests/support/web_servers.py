"""A web server with one folder of files, for tests: with ranges or without, and with e-tags."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Web:
    """What it serves and was asked for.

    Attributes:
        files: Contents by path.
        ranges: Whether it answers ranges of bytes; etags: whether it gives e-tags, W/ first: weak.
        user, query: What a request must carry, if anything.
        failures: Statuses that the next requests get.
        requests: Method and path of each request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: str = '"'
    user: str = ""
    query: str = ""
    failures: list[int] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            _answer(web, self)

        do_HEAD = do_GET  # noqa: N815  # the server's name

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    web.address = f"127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(web: Web, request: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(request.path)
    web.requests.append((request.command, request.path))
    content = web.files.get(unquote(parts.path).lstrip("/"))
    token = base64.b64encode(web.user.encode()).decode()
    denied = web.user and request.headers.get("Authorization") != f"Basic {token}"
    if web.failures:
        return _send(request, web.failures.pop(0), b"")
    if denied or (web.query and parts.query != web.query):
        return _send(request, 403, b"")
    if content is None:
        return _send(request, 404, b"")
    tag = f'{web.etags}{hashlib.md5(content).hexdigest()}"' if web.etags else ""
    wanted = request.headers.get("If-Match")
    if wanted and wanted != tag:
        return _send(request, 412, b"")
    headers = {"ETag": tag} if tag else {}
    bounds = request.headers.get("Range")
    if not web.ranges or not bounds:
        return _send(request, 200, content, headers)
    first, last = (int(n) for n in bounds.removeprefix("bytes=").split("-"))
    piece = content[first : last + 1]
    headers["Content-Range"] = f"bytes {first}-{first + len(piece) - 1}/{len(content)}"
    return _send(request, 206, piece, headers)


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    content: bytes,
    headers: dict[str, str] | None = None,
) -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(content)
