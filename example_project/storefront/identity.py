"""Who a request is from, for PostHog: `settings.POSTHOG_API_IDENTITY` names this function."""

from dataclasses import replace

from django.http import HttpRequest

from olposthog.identity import Identity, default_identity

from .models import Customer


def identity(request: HttpRequest) -> Identity:
    """Add the plan, which flags depend on.

    Visitors get one too: a flag that depends on an unknown property cannot be decided here.
    """
    user = request.user
    if isinstance(user, Customer):
        return Identity(str(user.pk), person_properties={"plan": user.plan})
    return replace(default_identity(request), person_properties={"plan": "none"})
