"""OpenFeature's SDKs for servers, in Python and in Node.js: they ask for one flag at a time."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from tests.openfeature.conftest import Client, Place, new_address, node_client
from tests.openfeature.site import PASSWORD
from tests.site.processes import until


class PythonClient:
    """The Python SDK, with what it says put as the Node.js SDK puts it."""

    provider: OFREPProvider
    context: EvaluationContext

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method below."""
        return getattr(self, name)(*arguments)

    def start(self, url: str, context: dict[str, Any], options: dict[str, Any]) -> Any:
        headers = options["headers"]
        self.provider = OFREPProvider(url, headers_factory=lambda: headers)
        key = context.pop("targetingKey", None)
        self.context = EvaluationContext(key, context)
        api.set_provider(self.provider)
        return self.state()

    def state(self) -> Any:
        return {"status": api.get_client().get_provider_status().value}

    def boolean(self, key: str, otherwise: bool) -> Any:
        return self._put(api.get_client().get_boolean_details(key, otherwise, self.context))

    def string(self, key: str, otherwise: str) -> Any:
        return self._put(api.get_client().get_string_details(key, otherwise, self.context))

    def _put(self, details: Any) -> Any:
        return {
            "value": details.value,
            "reason": details.reason and str(details.reason),
            "variant": details.variant,
            "errorCode": details.error_code and details.error_code.value,
            "flagMetadata": details.flag_metadata,
        }

    def stop(self) -> None:
        api.shutdown()
        self.provider.session.close()


@pytest.fixture(params=["Python", "Node.js"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client, not started yet."""
    if request.param == "Node.js":
        with node_client("server") as node:
            yield node
        return
    python = PythonClient()
    yield python
    python.stop()


def start(client: Client, place: Place, context: Any = None, **headers: str) -> None:
    state = client.call("start", place.url, context or {}, {"headers": headers})
    assert state["status"] == "READY"


def as_user(name: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()


def test_a_switch_is_a_boolean(client: Client, place: Place) -> None:
    """An on/off flag has PostHog's value, variant, reason and metadata."""
    start(client, place)

    details = client.call("boolean", "new-nav", False)

    assert (details["value"], details["variant"]) == (True, "on")
    assert details["reason"] == "TARGETING_MATCH"
    assert details["flagMetadata"]["source"] == "posthog"
    assert not details.get("errorCode")


def test_a_variant_is_a_string(client: Client, place: Place) -> None:
    """A multivariate flag has its variant, and its payload as JSON text."""
    start(client, place)

    details = client.call("string", "checkout", "classic")

    assert (details["value"], details["variant"]) == ("test", "test")
    assert details["flagMetadata"] == {
        "source": "posthog",
        "id": 7,
        "version": 3,
        "posthogReason": "condition_match",
        "payload": '{"colour":"green"}',
    }


def test_a_missing_flag_has_the_default(client: Client, place: Place) -> None:
    """A flag that is unknown is FLAG_NOT_FOUND, and the default in the code holds."""
    start(client, place)

    details = client.call("boolean", "missing", True)

    assert (details["value"], details["errorCode"]) == (True, "FLAG_NOT_FOUND")


def test_a_variant_is_no_boolean(client: Client, place: Place) -> None:
    """Asked for as the wrong type, a flag is a TYPE_MISMATCH, and the default holds."""
    start(client, place)

    details = client.call("boolean", "checkout", True)

    assert (details["value"], details["errorCode"]) == (True, "TYPE_MISMATCH")


def test_a_flag_that_failed_has_the_default(client: Client, place: Place) -> None:
    """What PostHog could not compute has no value, so that the default in the code holds."""
    start(client, place)

    assert client.call("boolean", "broken", True)["value"] is True
    assert client.call("string", "broken", "red")["value"] == "red"


@pytest.mark.parametrize("key", ["a/b 50% ü", "a%2Fb%2050%25%20%C3%BC"])
def test_odd_keys(client: Client, place: Place, key: str) -> None:
    """A key with a slash, a space, a percent sign and an umlaut is found, escaped or not."""
    start(client, place)

    assert client.call("string", key, "none")["value"] == "odd"


def test_credentials_say_who_is_asking(client: Client, place: Place) -> None:
    """The person is whom the credentials name, whatever the targeting key says."""
    start(client, place, {"targetingKey": "2"}, Authorization=as_user("ada"))
    assert client.call("boolean", "hers", False)["value"] is True

    start(client, place, {"targetingKey": "1"}, Authorization=as_user("grace"))
    assert client.call("boolean", "hers", True)["value"] is False


def test_wrong_credentials(client: Client, place: Place) -> None:
    """Credentials that are not valid are a general error, and the default holds."""
    start(client, place, Authorization="Basic !")

    details = client.call("boolean", "new-nav", False)

    assert (details["value"], details["errorCode"]) == (False, "GENERAL")


def test_an_outage_and_its_end(client: Client, place: Place) -> None:
    """While PostHog is down the site's value answers, as no error; afterwards PostHog's."""
    start(client, place)
    assert client.call("string", "checkout", "none")["value"] == "test"

    with place.outage():
        until(lambda: client.call("string", "checkout", "none")["value"] == "classic")
        details = client.call("string", "checkout", "none")
        assert (details["value"], details["reason"]) == ("classic", "STATIC")
        assert details["flagMetadata"] == {"source": "fallback"}
        assert not details.get("errorCode")

    until(lambda: client.call("string", "checkout", "none")["value"] == "test")
    assert client.call("state")["status"] == "READY"


def test_a_throttled_client_pauses(client: Client, throttled: Place) -> None:
    """After a 429 the default holds, and no request is made before Retry-After."""
    start(client, throttled, **new_address())
    for _ in range(2):
        assert client.call("boolean", "new-nav", False)["value"] is True

    refused = client.call("boolean", "new-nav", False)
    paused = client.call("boolean", "new-nav", False)

    assert (refused["value"], refused["errorCode"]) == (False, "GENERAL")
    assert (paused["value"], paused["errorCode"]) == (False, "GENERAL")
    assert "paused" in (paused.get("errorMessage") or "paused")
