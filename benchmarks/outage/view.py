"""What a project with the predecessor would write by hand to have our `GET /api/features/`.

The same people under the same ids, and an answer of the same shape. There is no ETag, because no
visitor of the benchmark sends one back.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.core.signing import BadSignature
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.project import features

COOKIE, SALT = "olposthog_id", "olposthog.anonymous"
"""Of the cookie with a visitor's id: the name and the salt that olposthog uses."""
COOKIE_SECONDS = 365 * 24 * 3600


class FeaturesView(APIView):
    """The flags of whoever asks; the site's defaults where there are none."""

    renderer_classes = [JSONRenderer]
    permission_classes = [AllowAny]

    def get(self, request: Request) -> Response:
        person, is_new = _identify(request)
        flags = features().get_all_feature_flags(person)
        response = Response(
            {
                "distinct_id": person,
                "source": "posthog" if flags else "fallback",
                "features": flags or settings.FEATURES,
                "payloads": {},
            },
            headers={"Cache-Control": "private, no-cache"},
        )
        if is_new:
            response.set_signed_cookie(
                COOKIE, person, salt=SALT, max_age=COOKIE_SECONDS, httponly=True, samesite="Lax"
            )
        return response


def _identify(request: Request) -> tuple[str, bool]:
    """Return who asks, and whether that is a new visitor."""
    if request.user.is_authenticated:
        return str(request.user.pk), False
    try:
        return str(request.get_signed_cookie(COOKIE, salt=SALT)), False
    except (KeyError, BadSignature):
        return str(uuid.uuid4()), True
