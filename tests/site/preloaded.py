"""The applications of a site that imports all it needs before a worker takes its first request."""

from importlib import import_module

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.cache import caches
from django.core.wsgi import get_wsgi_application
from django.db import connections

wsgi = get_wsgi_application()
asgi = get_asgi_application()
import_module(settings.ROOT_URLCONF)
connections.all()
caches["durable"]
