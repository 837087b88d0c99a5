"""Routes of OFREP, without trailing slashes: clients follow no redirect."""

from django.urls import path, re_path

from .views import EvaluateFlagsView, EvaluateFlagView

urlpatterns = [
    path("ofrep/v1/evaluate/flags", EvaluateFlagsView.as_view(), name="ofrep-flags"),
    # A key is whatever follows: slashes and line ends are part of it.
    re_path(
        r"^ofrep/v1/evaluate/flags/(?P<key>[\s\S]*)\Z",
        EvaluateFlagView.as_view(),
        name="ofrep-flag",
    ),
]
