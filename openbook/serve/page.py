"""The page's files: read once, held in memory, packed once. No path of a request ever reaches the disk."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from openbook.serve.errors import Refused

STATIC = Path(__file__).parent / "static"
PACKED = (".html", ".js", ".css", ".svg", ".json", ".txt")
LARGEST = 4 << 20
TYPES = {".js": "text/javascript", ".woff2": "font/woff2", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class File:
    """A file as it is sent; `packed` by gzip, where that is shorter."""

    data: bytes
    packed: bytes | None
    media: str
    tag: str


def read_all(folder: Path = STATIC) -> dict[str, File]:
    """All files below the folder, by their address; `/` is index.html."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size <= LARGEST:
            found["/" + path.relative_to(folder).as_posix()] = _file(path)
    if "/index.html" in found:
        found["/"] = found["/index.html"]
    return found


def _file(path: Path) -> File:
    data = path.read_bytes()
    packed = gzip.compress(data, 9, mtime=0) if path.suffix in PACKED else None
    media = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    shorter = packed if packed is not None and len(packed) < len(data) else None
    return File(data, shorter, media, f'"{hashlib.sha256(data).hexdigest()[:20]}"')


def router(files: dict[str, File]) -> APIRouter:
    """Routes for the page's files."""
    routes = APIRouter(include_in_schema=False)

    async def page(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            raise Refused(404, f"there is nothing at {request.url.path}")
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        data = file.data
        if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            data = file.packed
            headers["Content-Encoding"] = "gzip"
        return Response(data, media_type=file.media, headers=headers)

    for address in files:
        routes.add_api_route(address, page, methods=["GET", "HEAD"])
    return routes
