"""What a browser's request costs gunicorn: one worker, connections that stay open, CPU time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.site.processes import ROOT, Site, serving

FEATURES_PATH = "/api/features/"
PLAIN_PATH = "/plain/features/"
REQUESTS = 40
"""Of one measurement."""
ANSWER_SECONDS = 60.0


class Visitor(Enum):
    """Who sends a request."""

    NEW = "a new visitor each time"
    KNOWN = "a known visitor"
    LOGGED_IN = "logged in"


class Browser:
    """Sends requests to one site."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_SECONDS)
        self._cookies = {Visitor.NEW: ""}
        self._etags: dict[Visitor, str] = {}
        for visitor, first in ((Visitor.KNOWN, FEATURES_PATH), (Visitor.LOGGED_IN, "/log-in/")):
            response, _ = self._get(first, {})
            pairs = [one.split(";")[0] for one in response.headers.get_all("Set-Cookie") or ()]
            self._cookies[visitor] = "; ".join(pairs)
            response, _ = self._get(FEATURES_PATH, {"Cookie": self._cookies[visitor]})
            self._etags[visitor] = response.headers["ETag"]

    def seconds_per_request(
        self, path: str, visitor: Visitor, *, conditional: bool = False
    ) -> float:
        """Return the CPU time that a GET takes the server. A conditional one comes to a 304."""
        headers = {"Cookie": self._cookies[visitor]} if self._cookies[visitor] else {}
        if conditional:
            headers["If-None-Match"] = self._etags[visitor]
        expected = HTTPStatus.NOT_MODIFIED if conditional else HTTPStatus.OK
        before = self._cpu_seconds()
        for _ in range(REQUESTS):
            response, body = self._get(path, headers)
            if response.status != expected:
                raise RuntimeError(f"{path} answered {response.status} {body!r}")
        return (self._cpu_seconds() - before) / REQUESTS

    def _cpu_seconds(self) -> float:
        return float(self._get("/cpu-seconds/", {})[1])

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[HTTPResponse, bytes]:
        self._connection.request("GET", path, headers=dict(headers))
        response = self._connection.getresponse()
        return response, response.read()

    def close(self) -> None:
        self._connection.close()


class BenchmarkSite(Site):
    """A site as `serving` wants it."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | {
            "BENCHMARKS_FOLDER": str(self.directory),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "api")]),
        }


@contextmanager
def browser() -> Iterator[Browser]:
    """Serve a new site through gunicorn, and yield a browser of it."""
    options = [
        "benchmarks.wsgi",
        "--workers=1",
        "--worker-class=gthread",
        "--threads=2",
        f"--keep-alive={ANSWER_SECONDS:.0f}",
        "--no-control-socket",
    ]
    with TemporaryDirectory(prefix="olposthog-benchmarks-") as folder:
        site = BenchmarkSite(Path(folder))
        with serving(site, "gunicorn", *options, socket_option="--bind=fd://{}") as gunicorn:
            visitor = Browser(gunicorn.url)
            try:
                yield visitor
            finally:
                visitor.close()
