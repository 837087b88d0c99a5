"""What browsers, proxies and Django's own middleware may keep of an answer; and the throttle."""

from __future__ import annotations

import gzip
import json

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import include, path
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.throttling import ScopedRateThrottle
from rest_framework.views import APIView

from olposthog.features import clear_cache
from olposthog_api.views import FeatureViewSet
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, Variant

FEATURES_URL = "/api/features/"
FLAG_URL = "/api/features/flag/"
SAME = [
    '"X"',
    'W/"X"',
    '"x", "X"',
    'W/"x",W/"X" , "y"',
    '"X-gzip"',
    '"X-br"',
    '"X-zstd"',
    '"X-deflate"',
    '"X--gzip"',
    '"X;gzip"',
    '"X:br"',
    'W/"X-gzip"',
    '"x-gzip", W/"X;br", "y"',
]
"""An ETag X as a client may send it after what proxies made of it."""
ALIKE = [
    '"X-"',
    '"X-gz"',
    '"X-gzip-2"',
    '"X-gzipped"',
    '"Xgzip"',
    '"X gzip"',
    '"X.gzip"',
    '"X---gzip"',
    '"X-GZIP"',
    '"gzip-X"',
    '"0X-gzip"',
    '"X0-gzip"',
    '"X0"',
    '"X""',
    '"X',
    "X-gzip",
    '"X"-gzip',
    'w/"X"',
    '"x-gzip"',
    '"-gzip"',
]
BOTH = pytest.mark.parametrize("url", [FEATURES_URL, FLAG_URL])


class OtherScopeViewSet(FeatureViewSet):
    """A site's subclass with a throttle scope of its own."""

    throttle_scope = "other"


class OtherThrottle(ScopedRateThrottle):
    """DRF's own throttle, with a rate for a view of the site's."""

    THROTTLE_RATES = {"other": "2/day"}


class OtherView(APIView):
    """A view of the site's."""

    throttle_classes = [OtherThrottle]
    throttle_scope = "other"

    def get(self, request):
        return Response()


other_scope = SimpleRouter()
other_scope.register("scoped", OtherScopeViewSet, basename="scoped")
urlpatterns = [
    path("api/", include("olposthog_api.urls")),
    path("", include(other_scope.urls)),
    path("other/", OtherView.as_view()),
]


def anew(client):
    """The same browser, before a site whose middleware has changed."""
    again = Client()
    again.cookies = client.cookies
    return again


def directives(response, header="Cache-Control"):
    return {part.strip().lower() for part in response.get(header, "").split(",") if part}


@pytest.fixture
def visited(enabled, client):
    """A visitor who has been here: the identity stays the same."""
    enabled.flags = {"flag": Variant("test", payload={"a": 1}), "other": True}
    client.get(FEATURES_URL)
    return client


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada")


# Headers


@BOTH
def test_an_answer_is_for_its_reader_alone(visited, url):
    """200 and 304 carry an ETag, forbid shared caches, and name what the identity came from."""
    fresh = visited.get(url)
    unchanged = visited.get(url, headers={"if-none-match": fresh["ETag"]})

    assert (fresh.status_code, unchanged.status_code) == (200, 304)
    for response in (fresh, unchanged):
        assert response["ETag"] == fresh["ETag"]
        assert directives(response) == {"private", "no-cache"}
        assert directives(response, "Vary") == {"cookie", "authorization"}


@BOTH
def test_a_trusted_header_is_named_in_vary(visited, settings, url):
    """Where a browser's id counts, `Vary` names its header, on a 304 too."""
    settings.POSTHOG_API_TRUST_BROWSER_ID = True

    fresh = visited.get(url)
    unchanged = visited.get(url, headers={"if-none-match": fresh["ETag"]})

    assert unchanged.status_code == 304
    for response in (fresh, unchanged):
        assert directives(response, "Vary") == {"cookie", "authorization", "x-posthog-distinct-id"}


def test_a_304_has_no_body(visited):
    """What is unchanged is not sent again."""
    etag = visited.get(FEATURES_URL)["ETag"]

    response = visited.get(FEATURES_URL, headers={"if-none-match": etag})

    assert (response.status_code, response.content) == (304, b"")
    assert "Content-Type" not in response


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        (f"{FEATURES_URL}unknown/", {}, 404),
        (f"{FEATURES_URL}?keys=%00", {}, 400),
        (FEATURES_URL, {"accept": "text/html"}, 406),
        (FEATURES_URL, {"authorization": "Basic !"}, 403),
    ],
)
def test_errors_are_in_no_shared_cache(visited, url, headers, status, db):
    """An error about one reader's flags must not answer another's."""
    response = visited.get(url, headers=headers)

    assert response.status_code == status
    assert {"private", "no-cache"} <= directives(response)
    assert "ETag" not in response


@BOTH
def test_djangos_page_cache_keeps_nothing(visited, enabled, settings, url):
    """Behind Django's cache middleware each visitor still has flags of their own."""
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    browser = anew(visited)
    first = browser.get(url)
    assert first.status_code == 200
    enabled.flags = {"flag": False}
    clear_cache()

    assert browser.get(url).content != first.content


# If-None-Match


@BOTH
@pytest.mark.parametrize("condition", [*SAME, "*"])
def test_a_known_etag_costs_a_304(visited, url, condition):
    """An ETag matches strong, weak, in a list, as `*`, and as compressing proxies rewrite it."""
    etag = visited.get(url)["ETag"]

    response = visited.get(url, headers={"if-none-match": condition.replace("X", etag.strip('"'))})

    assert response.status_code == 304
    assert response["ETag"] == etag


@BOTH
@pytest.mark.parametrize("condition", ALIKE)
def test_a_look_alike_costs_the_whole_answer(visited, url, condition):
    """Only a content coding may be appended."""
    etag = visited.get(url)["ETag"]

    response = visited.get(url, headers={"if-none-match": condition.replace("X", etag.strip('"'))})

    assert response.status_code == 200


@BOTH
@pytest.mark.parametrize("condition", ['"x"', "", "nonsense", 'W/"', '"x", "y"'])
def test_an_unknown_etag_costs_the_whole_answer(visited, url, condition):
    """Another ETag, or none that can be read, gets the answer."""
    response = visited.get(url, headers={"if-none-match": condition})

    assert response.status_code == 200
    assert response.content


def test_the_etag_of_an_unquoted_digest_is_no_match(visited):
    """An ETag without its quotes is not the ETag."""
    etag = visited.get(FEATURES_URL)["ETag"]

    response = visited.get(FEATURES_URL, headers={"if-none-match": etag.strip('"')})

    assert response.status_code == 200


def test_a_head_request_is_conditional_too(visited):
    """`HEAD` gets the same 304 as `GET`."""
    etag = visited.get(FEATURES_URL)["ETag"]

    assert visited.head(FEATURES_URL, headers={"if-none-match": etag}).status_code == 304


@BOTH
@pytest.mark.parametrize("known", [None, '"x"'])
def test_conditions_on_dates_mean_nothing_to_flags(visited, url, known):
    """Flags have no modification date, so a condition on one is ignored (RFC 9110, 13.1.4)."""
    headers = {"if-unmodified-since": "Wed, 21 Oct 2015 07:28:00 GMT"}
    if known:
        headers["if-none-match"] = known

    assert visited.get(url, headers=headers).status_code == 200


# What makes an ETag


def test_time_alone_changes_no_etag(visited, enabled):
    """A second evaluation that finds the same has the same ETag."""
    before = visited.get(FEATURES_URL)
    clear_cache()

    after = visited.get(FEATURES_URL)

    assert len(enabled.flag_calls) == 2
    assert after["ETag"] == before["ETag"]
    assert after.content == before.content


def test_posthogs_order_changes_no_etag(visited, enabled):
    """Flags that PostHog sends in another order are the same flags."""
    before = visited.get(FEATURES_URL)["ETag"]
    enabled.flags = dict(reversed(list(enabled.flags.items())))
    clear_cache()

    assert visited.get(FEATURES_URL)["ETag"] == before


@pytest.mark.parametrize(
    "flags",
    [
        {"flag": Variant("control", payload={"a": 1}), "other": True},
        {"flag": Variant("test", payload={"a": 2}), "other": True},
        {"flag": Variant("test", payload={"a": 1}), "other": False},
        {"flag": Variant("test", payload={"a": 1})},
        {"flag": Variant("test", payload={"a": 1}), "other": True, "new": True},
        {"flag": Variant("test", payload={"a": True}), "other": True},
    ],
    ids=["variant", "payload", "off", "gone", "new", "payload type"],
)
def test_a_changed_value_is_seen(visited, enabled, flags):
    """Any change of a value or a payload makes another ETag."""
    before = visited.get(FEATURES_URL)["ETag"]
    enabled.flags = flags
    clear_cache()

    response = visited.get(FEATURES_URL, headers={"if-none-match": before})

    assert response.status_code == 200
    assert response["ETag"] != before


@BOTH
def test_a_changed_source_is_seen(visited, enabled, settings, url):
    """The fallback has another ETag, even where its values are the same."""
    settings.FEATURES = {"flag": True}
    enabled.flags = {"flag": True}
    clear_cache()
    before = visited.get(url)
    enabled.fault = Refuse()
    clear_cache()

    after = visited.get(url, headers={"if-none-match": before["ETag"]})

    assert after.status_code == 200
    assert (before.json()["source"], after.json()["source"]) == ("posthog", "fallback")
    assert after["ETag"] != before["ETag"]


def test_another_person_has_another_etag(visited, enabled):
    """Two people with the same flags share no answer: it names the person."""
    mine = visited.get(FEATURES_URL)

    other = Client().get(FEATURES_URL, headers={"if-none-match": mine["ETag"]})

    assert other.status_code == 200
    assert other.json()["features"] == mine.json()["features"]
    assert other["ETag"] != mine["ETag"]


def test_logging_in_makes_another_etag(visited, user):
    """What the browser kept of an anonymous visit is not used for the user."""
    before = visited.get(FEATURES_URL)["ETag"]
    visited.force_login(user)

    response = visited.get(FEATURES_URL, headers={"if-none-match": before})

    assert response.status_code == 200
    assert response.json()["distinct_id"] == str(user.pk)


def test_narrowed_answers_have_etags_of_their_own(visited):
    """Each narrowing is another body, and so another ETag."""
    urls = [FEATURES_URL, f"{FEATURES_URL}?keys=flag", f"{FEATURES_URL}?keys=other"]
    etags = [visited.get(url)["ETag"] for url in urls]

    assert len(set(etags)) == 3
    for url, etag in zip(urls, etags, strict=True):
        assert visited.get(url, headers={"if-none-match": etag}).status_code == 304


def test_a_changed_allowlist_is_seen_at_once(visited, settings):
    """A body that was rendered before does not outlive a change of what browsers may see."""
    assert visited.get(FEATURES_URL).json()["features"] == {"flag": "test", "other": True}

    settings.POSTHOG_API_FLAGS = ["other"]

    assert visited.get(FEATURES_URL).json()["features"] == {"other": True}


# Compression


def test_a_weakened_etag_still_matches(visited, enabled, settings):
    """GZipMiddleware weakens the ETag; what the browser then sends still costs a 304."""
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    enabled.flags = {f"flag-{number}": Flag(payload="x" * 20) for number in range(50)}
    clear_cache()
    browser = anew(visited)
    packed = browser.get(FEATURES_URL, headers={"accept-encoding": "gzip"})
    assert packed["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(packed.content))["features"]) == 50
    assert packed["ETag"].startswith('W/"')

    again = browser.get(
        FEATURES_URL, headers={"accept-encoding": "gzip", "if-none-match": packed["ETag"]}
    )

    assert again.status_code == 304
    assert "accept-encoding" in directives(packed, "Vary")


def test_conditional_get_middleware_changes_nothing(visited, settings):
    """Django's own ETags leave ours alone."""
    settings.MIDDLEWARE = [
        "django.middleware.http.ConditionalGetMiddleware",
        *settings.MIDDLEWARE,
    ]
    before = visited.get(FEATURES_URL)["ETag"]
    browser = anew(visited)

    assert browser.get(FEATURES_URL)["ETag"] == before
    assert browser.get(FEATURES_URL, headers={"if-none-match": before}).status_code == 304


# Throttle


@pytest.fixture
def rates(settings):
    """Sets DRF's throttle rates."""

    def set_rates(*, proxies=None, **rates):
        settings.REST_FRAMEWORK = {
            **settings.REST_FRAMEWORK,
            "DEFAULT_THROTTLE_RATES": rates,
            "NUM_PROXIES": proxies,
        }

    return set_rates


def test_without_a_rate_there_is_no_throttle(visited, rates):
    """A site that sets no rate for `features` has no limit, whatever else it limits."""
    rates(other="1/day", anon="1/day")

    assert {visited.get(FEATURES_URL).status_code for _ in range(20)} == {200}


def test_a_rate_of_none_is_no_throttle(visited, rates):
    """DRF's way to switch a scope off works here too."""
    rates(features=None)

    assert {visited.get(FEATURES_URL).status_code for _ in range(5)} == {200}


def test_a_rate_limits_both_endpoints_together(visited, rates):
    """Beyond the rate of scope `features` there is 429 with Retry-After, in DRF's shape."""
    rates(features="2/day")

    statuses = [visited.get(url).status_code for url in (FEATURES_URL, FLAG_URL, FEATURES_URL)]
    refused = visited.get(FLAG_URL)

    assert statuses == [200, 200, 429]
    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= 24 * 3600
    assert refused.json()["detail"].startswith("Request was throttled.")
    assert directives(refused) == {"private", "no-cache"}


@pytest.mark.parametrize(
    ("proxies", "forwarded", "let_through"),
    [
        (None, "203.0.113.{n}", 5),
        (None, "203.0.113.{n}, 198.51.100.{n}", 5),
        (None, "", 5),
        (0, "203.0.113.{n}", 5),
        (1, "203.0.113.{n}, 198.51.100.7", 5),
        (1, "{n}.{n}.{n}.{n},, 198.51.100.7", 5),
        (2, "203.0.113.{n}, 198.51.100.7, 10.0.0.1", 5),
        (1, "198.51.100.{n}", 40),
        (2, "198.51.100.{n}, 10.0.0.1", 40),
    ],
)
def test_the_throttle_counts_clients(enabled, rates, *, proxies, forwarded, let_through):
    """Of 40 requests at 5 a day a client gets 5, whatever `X-Forwarded-For` it makes up.

    With `NUM_PROXIES`, the address that the outermost proxy saw is the client.
    """
    rates(features="5/day", proxies=proxies)

    statuses = [
        Client().get(url, headers={"x-forwarded-for": forwarded.format(n=n)}).status_code
        for n in range(20)
        for url in (FEATURES_URL, FLAG_URL)
    ]

    if let_through == 40:  # each of 20 clients asks twice
        assert 429 not in statuses
    else:
        assert statuses[5:] == [429] * 35
        assert len(enabled.flag_calls) <= 5


def test_addresses_are_clients(enabled, rates):
    """Each address that connects has a limit of its own."""
    rates(features="1/day")

    for address in ("192.0.2.1", "192.0.2.2"):
        statuses = [Client().get(FEATURES_URL, REMOTE_ADDR=address).status_code for _ in range(2)]
        assert statuses == [200, 429]


def test_a_304_counts_like_any_request(visited, rates):
    """Polling is cheap, and still counted."""
    rates(features="1/day")
    etag = visited.get(FEATURES_URL)["ETag"]

    assert visited.get(FEATURES_URL, headers={"if-none-match": etag}).status_code == 429


def test_a_throttled_request_evaluates_nothing(enabled, client, rates):
    """Who asks too often costs PostHog nothing."""
    rates(features="1/day")
    client.get(FEATURES_URL)
    clear_cache()

    assert client.get(FEATURES_URL).status_code == 429
    assert len(enabled.flag_calls) == 1


def test_a_throttle_that_cannot_count_lets_through(visited, rates, settings, caplog):
    """While DRF's cache is away nobody gets an error, and the log says so once a minute."""
    rates(features="1/day")
    settings.CACHES = {
        **settings.CACHES,
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1",
        },
    }

    assert {visited.get(FEATURES_URL).status_code for _ in range(3)} == {200}
    (line,) = [one for one in caplog.messages if one.startswith("Requests for flags")]
    assert line == "Requests for flags cannot be counted (ConnectionError), so all are let through."


@pytest.mark.urls(__name__)
def test_other_scopes_are_untouched(visited, rates):
    """Our rate limits nobody else's views."""
    rates(features="1/day")

    ours = [visited.get(FEATURES_URL).status_code for _ in range(2)]
    theirs = [visited.get("/other/").status_code for _ in range(3)]

    assert ours == [200, 429]
    assert theirs == [200, 200, 429]


@pytest.mark.urls(__name__)
def test_a_subclass_may_have_a_scope_of_its_own(visited, rates):
    """A site's subclass with another `throttle_scope` has that scope's rate."""
    rates(features="1/day", other="2/day")

    assert [visited.get("/scoped/").status_code for _ in range(3)] == [200, 200, 429]
