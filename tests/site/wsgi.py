"""The WSGI application of a site that asks for a flag while it is being imported."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from olposthog.features import is_enabled  # noqa: E402  # Django comes first

is_enabled("new-nav")
