"""Routes of the REST API. A `SimpleRouter`: a `DefaultRouter` would claim the host's root."""

from rest_framework.routers import SimpleRouter

from .views import FeatureViewSet

router = SimpleRouter()
router.register("features", FeatureViewSet, basename="feature")

urlpatterns = router.urls
