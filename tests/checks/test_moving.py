"""What is left of the predecessor, beside the real package."""

import pytest

from olposthog.checks import ids
from tests.checks.project import Project

MOVED = """
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "olposthog", "shop"]
ROOT_URLCONF = "shop.urls"
CACHES = {
    name: {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    for name in ("default", "durable")
}
"""
VIEWS = "from mitol.olposthog.features import is_enabled\n"


def test_stale_import_in_a_view(tmp_path):
    """Code that still asks the predecessor goes past this library, also where that is disabled."""
    project = Project(
        tmp_path,
        MOVED,
        **{
            "shop.__init__": "",
            "shop.views": VIEWS,
            "shop.urls": "from shop import views\nurlpatterns = []\n",
        },
    )

    ((id_, message, hint),) = project.check()
    assert id_ == ids.PREDECESSOR_IMPORTED
    assert message.startswith("mitol.olposthog.features is imported")
    assert "olposthog.features" in hint
    assert "mitol-django-olposthog" in hint


@pytest.mark.parametrize("urls", ["", "urlpatterns = []\n"])
def test_predecessor_that_nobody_imports(tmp_path, urls):
    """That the package is still installed does no harm; what is wrong with URLs Django says."""
    project = Project(
        tmp_path,
        MOVED.replace('ROOT_URLCONF = "shop.urls"', 'ROOT_URLCONF = "shop.urls"' if urls else ""),
        **{"shop.__init__": "", "shop.urls": urls},
    )

    assert project.check() == []
