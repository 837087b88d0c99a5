"""The site that gunicorn serves: the REST API with definitions, and a plain viewset."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.wsgi import get_wsgi_application

from .peers import Peer, start

start(Peer.OLPOSTHOG, Path(os.environ["BENCHMARKS_FOLDER"]))
application = get_wsgi_application()
