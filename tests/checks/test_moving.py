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


def site(folder, urls, settings=MOVED):
    return Project(
        folder,
        settings,
        **{"shop.__init__": "", "shop.views": VIEWS, "shop.urls": urls},
    )


def test_stale_import_in_a_view(tmp_path):
    """Code that still asks the predecessor goes past this library, also where that is disabled."""
    project = site(tmp_path, "from shop import views\nurlpatterns = []\n")

    ((id_, message, hint),) = project.check()
    assert id_ == ids.PREDECESSOR_IMPORTED
    assert message.startswith("mitol.olposthog.features is imported")
    assert "olposthog.features" in hint
    assert "mitol-django-olposthog" in hint


def test_stale_import_is_found_by_our_checks_alone(tmp_path):
    """Whether Django's checks have imported the views yet makes no difference."""
    project = site(tmp_path, "from shop import views\nurlpatterns = []\n")

    assert ids.PREDECESSOR_IMPORTED in project.manage("check", "--tag", "olposthog")


@pytest.mark.parametrize("urls", ["", "raise RuntimeError('broken')\n"], ids=["empty", "broken"])
def test_broken_urls_are_not_ours_to_tell(tmp_path, urls):
    """What is wrong with the site's URLs, Django's own checks say."""
    assert "no issues" in site(tmp_path, urls).manage("check", "--tag", "olposthog")


def test_predecessor_that_nobody_imports(tmp_path):
    """That the package is still installed does no harm, with URLs or without."""
    assert site(tmp_path, "urlpatterns = []\n").check() == []

    without = MOVED.replace('ROOT_URLCONF = "shop.urls"', "")
    assert site(tmp_path, "", without).check() == []
