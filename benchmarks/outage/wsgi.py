"""The WSGI application of either site."""

import logging

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from benchmarks.project import features  # noqa: E402  # Django comes first

features().configure()
logging.getLogger(__name__).info("This worker is ready.")
