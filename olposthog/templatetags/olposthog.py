"""`{% load olposthog %}`: flags in Django templates."""

from __future__ import annotations

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.utils.html import json_script
from django.utils.safestring import SafeString

from olposthog.bootstrap import bootstrap
from olposthog.features import for_request
from olposthog.snapshot import Runtime

register = template.Library()


@register.simple_tag(takes_context=True)
def posthog_bootstrap(context: template.Context) -> SafeString:
    """Render posthog-js's option `bootstrap` as a JSON script with the id `posthog-bootstrap`.

    It is about the person whom the request is from, and reports no exposure.
    """
    request = context.get("request")
    if request is None:
        raise ImproperlyConfigured(
            "{% posthog_bootstrap %} needs the request: render the template with it, and put "
            "'django.template.context_processors.request' into the context_processors of TEMPLATES."
        )
    return json_script(bootstrap(for_request(request, runtime=Runtime.CLIENT)), "posthog-bootstrap")
