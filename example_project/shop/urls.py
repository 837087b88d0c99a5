"""Routes: the shop, the REST API with its description, and OFREP."""

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

urlpatterns = [
    path("", include("storefront.urls")),
    path("api/", include("olposthog_api.urls")),
    path("", include("olposthog_api.ofrep.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
]
