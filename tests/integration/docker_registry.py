"""A registry that serves one image over HTTP (OCI Distribution 1.1, as much of it as a pull needs)."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

NAME: Final = "tiny"
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves `tiny:latest`, a busybox; anything else it does not know. It can be told to hold its answers back."""

    def __init__(self, port: int, busybox: bytes) -> None:
        self.image = f"127.0.0.1:{port}/{NAME}"
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        layer = _layer(busybox)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/busybox", "echo", "pulled"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
        blobs = [json.dumps(config).encode(), gzip.compress(layer, mtime=0)]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _part(_CONFIG, blobs[0])}
        manifest["layers"] = [_part(_LAYER, blobs[1])]
        self._manifest = json.dumps(manifest).encode()
        self._blobs = {_digest(blob): blob for blob in blobs}

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, type and body of the answer to a GET."""
        self.asked.append(path)
        if path == "/v2/":
            return 200, "application/json", b"{}"
        self.open.wait()
        if path in {f"/v2/{NAME}/manifests/latest", f"/v2/{NAME}/manifests/{_digest(self._manifest)}"}:
            return 200, _MANIFEST, self._manifest
        blob = self._blobs.get(path.rpartition("/")[2])
        if blob is not None:
            return 200, "application/octet-stream", blob
        return 404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'


def _layer(busybox: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("busybox")
        entry.size, entry.mode = len(busybox), 0o755
        archive.addfile(entry, io.BytesIO(busybox))
    return content.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _part(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(blob), "digest": _digest(blob)}


@contextmanager
def serving(busybox: bytes) -> Iterator[Registry]:
    """Serve on a free port of 127.0.0.1, which engines take for trustworthy without TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, body = registry.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if kind == _MANIFEST:
                self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - what the base class calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = Registry(server.server_address[1], busybox)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield registry
        finally:
            registry.open.set()
            server.shutdown()
            thread.join()
