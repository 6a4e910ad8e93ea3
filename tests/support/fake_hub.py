"""A fake of the Hugging Face hub: one folder, served as one repository, on this machine.

It answers what `huggingface_hub.snapshot_download` and `HfApi.list_repo_files` ask: model info, the
tree, and HEAD and GET of a file at a revision, with the hub's own headers and error codes.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "df1b051c49625cf57a3d0d8d3863ed4d13564fe4"


@dataclass
class Hub:
    """One repository; `asked` lists the requests it has seen, as "METHOD path"."""

    folder: Path
    repo: str = "google-t5/t5-small"
    commit: str = COMMIT
    branches: tuple[str, ...] = ("main",)
    asked: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        files = (p for p in self.folder.rglob("*") if p.is_file())
        return sorted(p.relative_to(self.folder).as_posix() for p in files)

    def knows(self, revision: str) -> bool:
        return revision in (self.commit, *self.branches)

    def fetched(self) -> set[str]:
        """Names of the files whose bytes were asked for."""
        mark = f"GET /{self.repo}/resolve/{self.commit}/"
        return {line.removeprefix(mark) for line in self.asked if line.startswith(mark)}


@contextmanager
def serve(hub: Hub, *more: Hub) -> Iterator[str]:
    """Serve it, and more, on a free port of 127.0.0.1; yields what HF_ENDPOINT has to be."""

    class Handler(_Handler):
        served = hub
        others = more

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    others: tuple[Hub, ...] = ()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """No lines on stderr."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        named = (hub for hub in self.others if f"/{hub.repo}" in path)
        hub = self.served = next(named, type(self).served)
        hub.asked.append(f"{self.command} {path}")
        if path.startswith(f"/api/models/{hub.repo}"):
            self._api(path.removeprefix(f"/api/models/{hub.repo}").strip("/"))
        elif path.startswith(f"/{hub.repo}/resolve/"):
            revision, _, name = path.removeprefix(f"/{hub.repo}/resolve/").partition("/")
            self._file(revision, name, with_body)
        else:
            self._refuse("RepoNotFound", "Repository not found")

    def _api(self, rest: str) -> None:
        """ "", "revision/REV" or "tree/REV"."""
        hub = self.served
        kind, _, revision = rest.partition("/")
        if revision and not hub.knows(revision):
            self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        elif kind == "tree":
            self._json([self._entry(name) for name in hub.files])
        else:
            siblings = [{"rfilename": name} for name in hub.files]
            self._json(
                {"id": hub.repo, "modelId": hub.repo, "sha": hub.commit, "siblings": siblings}
            )

    def _entry(self, name: str) -> dict[str, object]:
        size = (self.served.folder / name).stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": self.served.commit}

    def _file(self, revision: str, name: str, with_body: bool) -> None:
        hub = self.served
        if not hub.knows(revision):
            return self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        if name not in hub.files:
            return self._refuse("EntryNotFound", "Entry not found")
        content = (hub.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)
        return None

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, code: str, message: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()
