"""The stand-in PostHog: that it behaves as PostHog does, and misbehaves as told."""

import gzip
import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from posthog import Posthog

from tests.posthog_faults import (
    Body,
    CutShort,
    Delay,
    Fault,
    HalfOpen,
    Hang,
    Html,
    Quota,
    Redirect,
    Refuse,
    Reset,
    Status,
    TrickleBody,
    TrickleHeaders,
)
from tests.posthog_server import Flag, PostHogServer, Variant

LONG = 600.0  # a wait that must end for another reason
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0"


@pytest.fixture
def server() -> Iterator[PostHogServer]:
    with PostHogServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(100) as pool:
        yield pool


@pytest.fixture
def sdk(server: PostHogServer) -> Iterator[Posthog]:
    client = Posthog("phc_test", host=server.url, feature_flags_request_max_retries=0)
    yield client
    client.shutdown()


def ask(
    server: PostHogServer, version: str = "?v=4", agent: str = "", **body: Any
) -> requests.Response:
    """One evaluation, on a connection of its own."""
    return requests.post(
        f"{server.url}/flags/{version}",
        json={"api_key": "phc_test", "distinct_id": "ada", **body},
        headers={"User-Agent": agent or "posthog-python/7.91.1"},
        timeout=LONG,
    )


def flags_of(server: PostHogServer, **request: Any) -> dict[str, Any]:
    """The records of one evaluation."""
    flags: dict[str, Any] = ask(server, **request).json()["flags"]
    return flags


def define(server: PostHogServer, secret: str = "phs_test", **headers: str) -> requests.Response:
    """One request for definitions."""
    return requests.get(
        f"{server.url}/flags/definitions?token=phc_test&send_cohorts",
        headers={"Authorization": f"Bearer {secret}", **headers},
        timeout=LONG,
    )


def is_dropped(future: Future[requests.Response]) -> bool:
    """Whether the client lost its connection instead of being answered."""
    return isinstance(future.exception(timeout=LONG), requests.ConnectionError)


class TestEvaluation:
    def test_bare_values_declare_flags(self, server: PostHogServer) -> None:
        """A bool or a string is all it takes to declare a flag."""
        server.flags = {"new-nav": True, "legacy": False, "checkout": "test"}

        values = {key: flag["value"] for key, flag in flags_of(server).items()}

        assert values == {"new-nav": True, "legacy": False, "checkout": "test"}

    def test_record_of_version_4(self, server: PostHogServer) -> None:
        """A record says the value, why, and which version of which flag it was."""
        server.flags = {"checkout": Variant("test", payload={"colour": "green"}, id=7, version=3)}

        assert flags_of(server)["checkout"] == {
            "key": "checkout",
            "value": "test",
            "reason": {
                "code": "condition_match",
                "condition_index": 0,
                "description": "Condition match",
            },
            "metadata": {
                "id": 7,
                "version": 3,
                "config_version": 1,
                "description": None,
                "payload": '{"colour": "green"}',
                "has_experiment": True,
                "variant_key": "test",
            },
        }

    def test_record_of_version_2(self, server: PostHogServer) -> None:
        """Before typed values a record said on or off, and perhaps which variant."""
        server.flags = {"on": True, "off": False, "checkout": "test"}

        records = flags_of(server, version="?v=2")

        states = {key: (record["enabled"], record["variant"]) for key, record in records.items()}
        assert states == {"on": (True, None), "off": (False, None), "checkout": (True, "test")}
        assert "value" not in records["on"]

    def test_answer_without_a_version(self, server: PostHogServer) -> None:
        """Who names no version gets the legacy pair of mappings."""
        server.flags = {"on": True, "checkout": Variant("test", payload=[1])}

        answer = ask(server, version="").json()

        assert answer["featureFlags"] == {"on": True, "checkout": "test"}
        assert answer["featureFlagPayloads"] == {"checkout": "[1]"}

    @pytest.mark.parametrize("value", [42, 1.5, {"layout": "compact"}, None, [1, 2]])
    def test_typed_values(self, server: PostHogServer, value: object) -> None:
        """Version 4 carries any JSON value."""
        server.flags = {"typed": Flag(value)}

        assert flags_of(server)["typed"]["value"] == value

    def test_failed_record(self, server: PostHogServer) -> None:
        """A flag that could not be computed says so, and so does the envelope."""
        server.flags = {"bad": Flag(failed=True), "good": True}

        answer = ask(server).json()

        assert answer["errorsWhileComputingFlags"] is True
        assert (answer["flags"]["bad"]["failed"], answer["flags"]["bad"]["value"]) == (True, None)
        assert "failed" not in answer["flags"]["good"]

    def test_envelope(self, server: PostHogServer) -> None:
        """Every evaluation has an id of its own and a time in milliseconds."""
        first, second = ask(server).json(), ask(server).json()

        assert uuid.UUID(first["requestId"]) != uuid.UUID(second["requestId"])
        assert len(str(first["evaluatedAt"])) == len("1700000000000")
        assert first["errorsWhileComputingFlags"] is first["minimalFlagCalledEvents"] is False

    def test_envelope_follows_the_server(self, server: PostHogServer) -> None:
        """What the envelope claims can be set."""
        server.errors_while_computing_flags = server.minimal_flag_called_events = True

        answer = ask(server).json()

        assert answer["errorsWhileComputingFlags"] is answer["minimalFlagCalledEvents"] is True

    def test_inactive_flags_are_absent(self, server: PostHogServer) -> None:
        """A flag that is switched off is not in the answer."""
        server.flags = {"gone": Flag(active=False), "here": True}

        assert flags_of(server).keys() == {"here"}

    def test_only_the_keys_asked_for(self, server: PostHogServer) -> None:
        """An evaluation can be limited to some keys; unknown ones are left out."""
        server.flags = {"a": True, "b": True, "c": True}

        assert flags_of(server, flag_keys_to_evaluate=["c", "a", "x"]).keys() == {"a", "c"}

    def test_flag_for_some_people(self, server: PostHogServer) -> None:
        """People whom a flag is not for get False, without its payload."""
        server.flags = {"beta": Flag(payload=1, only_for={"ada"})}

        chosen = flags_of(server, distinct_id="ada")["beta"]
        other = flags_of(server, distinct_id="bob")["beta"]

        assert (chosen["value"], chosen["metadata"]["payload"]) == (True, "1")
        assert (other["value"], other["metadata"]["payload"]) == (False, None)
        assert other["reason"]["code"] == "no_condition_match"

    def test_flag_for_those_a_callable_chooses(self, server: PostHogServer) -> None:
        """A callable can choose people by anything in the request."""
        server.flags = {
            "pro": Flag("gold", only_for=lambda body: body["person_properties"]["plan"] == "pro")
        }

        assert flags_of(server, person_properties={"plan": "pro"})["pro"]["value"] == "gold"
        assert flags_of(server, person_properties={"plan": "free"})["pro"]["value"] is False

    def test_value_from_a_callable(self, server: PostHogServer) -> None:
        """A callable can make the value out of the request."""
        server.flags = {"echo": lambda body: body["distinct_id"]}

        assert flags_of(server, distinct_id="bob")["echo"]["value"] == "bob"

    def test_distinct_id_is_cut(self, server: PostHogServer) -> None:
        """As PostHog does, the server looks at 200 characters of a distinct id."""
        server.flags = {"echo": lambda body: body["distinct_id"]}

        assert flags_of(server, distinct_id="x" * 300)["echo"]["value"] == "x" * 200

    def test_flags_change_while_it_runs(self, server: PostHogServer) -> None:
        """The next evaluation sees flags declared since the last."""
        server.flags = {"a": True}
        before = flags_of(server)
        server.flags = {"a": False}

        assert (before["a"]["value"], flags_of(server)["a"]["value"]) == (True, False)


class TestRuntime:
    @pytest.fixture(autouse=True)
    def _flags(self, server: PostHogServer) -> None:
        server.flags = {
            runtime or "unset": Flag(runtime=runtime)
            for runtime in (None, "all", "client", "server")
        }

    @pytest.mark.parametrize("runtime", ["client", "server"])
    def test_body_names_the_runtime(self, server: PostHogServer, runtime: str) -> None:
        """What the body claims comes before what the headers suggest."""
        keys = flags_of(server, evaluation_runtime=runtime, agent=BROWSER).keys()

        assert keys == {"unset", "all", runtime}

    @pytest.mark.parametrize(
        ("agent", "runtime"),
        [
            ("posthog-python/7.91.1", "server"),
            ("posthog-node/5.0.0", "server"),
            ("python-requests/2.32", "server"),
            ("curl/8.0", "server"),
            (BROWSER, "client"),
            ("posthog-ios/3.0", "client"),
        ],
    )
    def test_user_agent_tells_the_runtime(
        self, server: PostHogServer, agent: str, runtime: str
    ) -> None:
        """SDKs of servers and command lines are servers; browsers and mobile SDKs are clients."""
        assert flags_of(server, agent=agent).keys() == {"unset", "all", runtime}

    @pytest.mark.parametrize("header", ["Origin", "Referer", "Sec-Fetch-Mode"])
    def test_browser_headers_tell_the_runtime(self, server: PostHogServer, header: str) -> None:
        """A stranger with the headers of a browser is a client."""
        answer = requests.post(
            f"{server.url}/flags/?v=4",
            json={"token": "phc_test", "distinct_id": "ada"},
            headers={"User-Agent": "unheard-of", header: "https://example.com"},
            timeout=LONG,
        )

        assert answer.json()["flags"].keys() == {"unset", "all", "client"}

    def test_stranger_has_no_runtime(self, server: PostHogServer) -> None:
        """Without any hint, only the flags of every runtime are returned."""
        assert flags_of(server, agent="unheard-of").keys() == {"unset", "all"}


class TestRefusals:
    @pytest.mark.parametrize("distinct_id", [None, ""])
    def test_no_distinct_id(self, server: PostHogServer, distinct_id: str | None) -> None:
        """An evaluation is of somebody."""
        answer = ask(server, distinct_id=distinct_id)

        assert (answer.status_code, "distinct_id" in answer.text) == (400, True)

    @pytest.mark.parametrize("path", ["/flags/?v=4", "/batch/"])
    @pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'"text"'])
    def test_body_is_no_json_object(self, server: PostHogServer, path: str, data: bytes) -> None:
        """A body that cannot be understood is a 400."""
        assert requests.post(server.url + path, data=data, timeout=LONG).status_code == 400

    def test_wrong_token(self, server: PostHogServer) -> None:
        """An evaluation needs the token of the project."""
        assert ask(server, api_key="phc_wrong").status_code == 401

    def test_token_can_be_set(self, server: PostHogServer) -> None:
        """The project's token is the test's choice."""
        server.token = "phc_mine"

        assert ask(server, api_key="phc_mine").status_code == 200

    def test_unknown_path(self, server: PostHogServer) -> None:
        """What PostHog does not serve is a 404, and is recorded."""
        assert requests.get(f"{server.url}/nowhere", timeout=LONG).status_code == 404
        assert [request.path for request in server.requests] == ["/nowhere"]

    def test_get_has_no_flags(self, server: PostHogServer) -> None:
        """A GET looks like a project without flags."""
        server.flags = {"new-nav": True}

        answer = requests.get(f"{server.url}/flags/?v=4", timeout=LONG)

        assert (answer.status_code, answer.json()["flags"]) == (200, {})


class TestDefinitions:
    def test_definitions_are_sent(self, server: PostHogServer) -> None:
        """With the secret, the definitions come as they were given."""
        server.definitions = {"flags": [{"key": "a"}], "group_type_mapping": {}, "cohorts": {}}

        assert define(server).json() == server.definitions

    def test_empty_project(self, server: PostHogServer) -> None:
        """Without definitions of its own the server has an empty project."""
        empty: dict[str, object] = {"flags": [], "group_type_mapping": {}, "cohorts": {}}

        assert define(server).json() == empty

    def test_unchanged_definitions_are_not_sent_again(self, server: PostHogServer) -> None:
        """A client that has the definitions gets a 304 without a body."""
        etag = define(server).headers["ETag"]

        answer = define(server, **{"If-None-Match": etag})

        assert etag.startswith('W/"')
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
        assert (server.definitions_sent, server.definitions_not_modified) == (1, 1)

    def test_changed_definitions_are_sent(self, server: PostHogServer) -> None:
        """A client that has older definitions gets the new ones."""
        etag = define(server).headers["ETag"]
        server.definitions = {"flags": [{"key": "a"}]}

        answer = define(server, **{"If-None-Match": etag})

        assert (answer.status_code, answer.headers["ETag"] != etag) == (200, True)
        assert (server.definitions_sent, server.definitions_not_modified) == (2, 0)

    def test_wrong_secret(self, server: PostHogServer) -> None:
        """Definitions are not public."""
        answer = define(server, secret="phs_wrong")

        assert (answer.status_code, answer.json()["type"]) == (401, "authentication_error")
        assert server.definitions_sent == 0
        assert len(server.definition_calls) == 1


class TestEvents:
    @pytest.mark.parametrize("path", ["/batch/", "/i/v0/e/", "/capture/"])
    def test_events_are_taken_in(self, server: PostHogServer, path: str) -> None:
        """Events come alone, as a list or in a batch, and are listed flat."""
        one, two, three, four = ({"event": name} for name in ("one", "two", "three", "four"))

        for body in (one, [two], {"api_key": "phc_test", "batch": [three, four]}):
            assert requests.post(server.url + path, json=body, timeout=LONG).status_code == 200

        assert server.events == [one, two, three, four]

    def test_compressed_events(self, server: PostHogServer) -> None:
        """A gzipped batch is unpacked."""
        batch = gzip.compress(json.dumps({"batch": [{"event": "one"}]}).encode())
        headers = {"Content-Encoding": "gzip"}

        requests.post(f"{server.url}/batch/", data=batch, headers=headers, timeout=LONG)

        assert server.events == [{"event": "one"}]

    def test_waiting_for_events(self, server: PostHogServer, pool: ThreadPoolExecutor) -> None:
        """A test can wait for events that are still on their way."""
        waiting = pool.submit(server.wait_for_events, 2, LONG)
        for name in ("one", "two"):
            requests.post(f"{server.url}/capture/", json={"event": name}, timeout=LONG)

        assert [event["event"] for event in waiting.result(LONG)] == ["one", "two"]

    def test_waiting_in_vain(self, server: PostHogServer) -> None:
        """Waiting for what never comes ends in an error that says what did come."""
        with pytest.raises(TimeoutError, match="0 requests, 0 events, 0 in flight"):
            server.wait_for_events(1, timeout=0)


class TestRecords:
    def test_request_is_recorded(self, server: PostHogServer) -> None:
        """A request is recorded whole, with header names in any case."""
        ask(server, version="?v=4&x=")

        (request,) = server.wait_for_requests(1)

        assert (request.method, request.path) == ("POST", "/flags/")
        assert request.query == {"v": "4", "x": ""}
        assert request.headers["user-agent"] == "posthog-python/7.91.1"
        assert request.body == {"api_key": "phc_test", "distinct_id": "ada"}

    def test_calls_are_told_apart(self, server: PostHogServer) -> None:
        """Evaluations, definitions and events are counted apart."""
        ask(server, distinct_id="bob")
        define(server)
        requests.post(f"{server.url}/capture/", json={"event": "one"}, timeout=LONG)

        assert [call["distinct_id"] for call in server.flag_calls] == ["bob"]
        assert [call.path for call in server.definition_calls] == ["/flags/definitions"]
        assert len(server.requests) == 3

    def test_clear(self, server: PostHogServer) -> None:
        """Clearing forgets what was seen and leaves what was declared, faults included."""
        server.flags, server.flags_fault = {"a": True}, Status(500)
        ask(server)
        server.clear()

        assert (server.requests, server.flag_calls) == ([], [])
        assert (server.flags, server.flags_fault) == ({"a": True}, Status(500))

    def test_reset(self, server: PostHogServer) -> None:
        """A reset server is as good as new, on the same port."""
        server.flags, server.token, server.fault = {"a": True}, "phc_mine", Refuse()
        server.reset()

        assert ask(server).json()["flags"] == {}
        assert len(server.requests) == 1

    def test_many_connections_at_once(
        self, server: PostHogServer, pool: ThreadPoolExecutor
    ) -> None:
        """A hundred clients are served side by side."""
        with server.gate():
            callers = [pool.submit(ask, server) for _ in range(100)]
            server.wait_until(lambda: server.in_flight == 100)

        assert {caller.result(LONG).status_code for caller in callers} == {200}
        assert (server.in_flight, len(server.flag_calls)) == (0, 100)

    def test_connection_is_kept(self, server: PostHogServer) -> None:
        """One connection carries many requests."""
        with requests.Session() as session:
            for _ in range(3):
                session.get(f"{server.url}/flags/", timeout=LONG)
            assert server.connections == 1

    def test_gate_holds_the_answer(self, server: PostHogServer, pool: ThreadPoolExecutor) -> None:
        """An answer is made on arrival and held, so a later change does not reach it."""
        server.flags = {"a": "old"}
        with server.gate():
            caller = pool.submit(flags_of, server)
            server.wait_until(lambda: server.in_flight)
            server.flags = {"a": "new"}
            define(server)  # nothing but evaluations is held
            assert not caller.done()

        server.wait_until(lambda: not server.in_flight)
        assert caller.result(LONG)["a"]["value"] == "old"

    def test_own_mistakes_surface(self) -> None:
        """What goes wrong inside the server fails the test that used it."""

        def use_a_broken_server() -> None:
            with PostHogServer() as server:
                server.flags = {"bad": lambda body: body["missing"]}
                with pytest.raises(requests.ConnectionError):
                    ask(server)

        with pytest.raises(ExceptionGroup) as failure:
            use_a_broken_server()

        assert failure.group_contains(KeyError)

    def test_leaving_early_is_no_error(self, server: PostHogServer) -> None:
        """A client may go away without an answer."""
        server.flags_fault = TrickleBody(interval=LONG)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /flags/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            server.wait_until(lambda: server.in_flight)
        server.flags_fault = None
        server.wait_until(lambda: not server.connections)

        assert server.errors == []


class TestFaults:
    """Faults that the client sees at once."""

    def test_status(self, server: PostHogServer) -> None:
        """Without a body of its own an error carries PostHog's document."""
        server.fault = Status(503)

        answer = ask(server)

        assert answer.status_code == 503
        assert answer.json().keys() == {"type", "code", "detail", "attr"}

    def test_status_with_a_body(self, server: PostHogServer) -> None:
        """An error can carry any text and headers."""
        server.fault = Status(500, "oops", headers={"X-Trace": "1"})

        answer = ask(server)

        assert (answer.status_code, answer.text, answer.headers["X-Trace"]) == (500, "oops", "1")

    def test_rate_limit(self, server: PostHogServer) -> None:
        """A 429 can say when to come back."""
        server.fault = Status(429, retry_after=30)

        answer = ask(server)

        assert answer.headers["Retry-After"] == "30"
        assert answer.json()["code"] == "rate_limit_exceeded"

    def test_quota(self, server: PostHogServer) -> None:
        """Over the quota an evaluation is a 200 without flags, and definitions are a 402."""
        server.flags, server.fault = {"a": True}, Quota()

        answer = ask(server)

        assert answer.status_code == 200
        assert (answer.json()["flags"], answer.json()["quotaLimited"]) == ({}, ["feature_flags"])
        assert define(server).status_code == 402

    def test_web_page(self, server: PostHogServer) -> None:
        """A web page is not flags."""
        server.fault = Html()

        answer = ask(server)

        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"flags": {"a"', b"\xff"])
    def test_any_body(self, server: PostHogServer, content: bytes) -> None:
        """A 200 can carry any bytes."""
        server.fault = Body(content)

        assert (ask(server).status_code, ask(server).content) == (200, content)

    @pytest.mark.parametrize("fault", [Body(b"{}", content_length=10), CutShort()])
    def test_early_close(self, server: PostHogServer, fault: Fault) -> None:
        """A body that ends before its Content-Length breaks the connection."""
        server.fault = fault

        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            ask(server)

    @pytest.mark.parametrize("code", [301, 302])
    def test_redirect_loses_the_flags(self, server: PostHogServer, code: int) -> None:
        """A client that follows a 301 or 302 arrives with a GET, for which there are no flags."""
        server.flags, server.fault = {"a": True}, Redirect(code)

        assert flags_of(server) == {}
        assert [request.method for request in server.requests] == ["POST", "GET"]

    def test_redirect_keeps_the_flags(self, server: PostHogServer) -> None:
        """A client that follows a 307 asks the same again."""
        server.flags, server.fault = {"a": True}, Redirect(307)

        assert flags_of(server).keys() == {"a"}
        assert [request.method for request in server.requests] == ["POST", "POST"]

    def test_redirect_elsewhere(self, server: PostHogServer) -> None:
        """A redirect can lead to another server."""
        with PostHogServer() as other:
            other.flags = {"there": True}
            server.fault = Redirect(308, f"{other.url}/flags/?v=4")

            assert flags_of(server).keys() == {"there"}

    def test_reset_connection(self, server: PostHogServer) -> None:
        """A reset is a TCP reset, not a polite end."""
        server.fault = Reset()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /flags/ HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_refused_connection(self, server: PostHogServer) -> None:
        """The port refuses connections, kept ones end, and both heal on the same port."""
        url = server.url
        with requests.Session() as session:
            session.get(f"{url}/flags/", timeout=LONG)
            server.fault = Refuse()
            with pytest.raises(requests.ConnectionError):
                session.get(f"{url}/flags/", timeout=LONG)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port))
            server.fault = None

            assert session.get(f"{url}/flags/", timeout=LONG).status_code == 200

    def test_unexpected_event_intake(self, server: PostHogServer) -> None:
        """An intake that fails takes nothing in."""
        server.events_fault = Status(503)
        requests.post(f"{server.url}/capture/", json={"event": "one"}, timeout=LONG)

        assert (server.events, len(server.requests)) == ([], 1)

    def test_fault_of_one_endpoint(self, server: PostHogServer) -> None:
        """Evaluations can fail while definitions do not, and the other way round."""
        server.flags_fault = Status(500)
        statuses = [ask(server).status_code, define(server).status_code]
        server.flags_fault, server.definitions_fault = None, Status(502)
        statuses += [ask(server).status_code, define(server).status_code]

        assert statuses == [500, 200, 200, 502]

    def test_fault_for_a_while(self, server: PostHogServer) -> None:
        """A fault can be over after a number of requests."""
        server.fault = Status(500, times=2)

        assert [ask(server).status_code for _ in range(3)] == [500, 500, 200]
        assert server.fault is None

    def test_heal(self, server: PostHogServer) -> None:
        """Healing lifts every fault."""
        server.fault, server.flags_fault = Refuse(), Status(500)
        server.heal()

        assert ask(server).status_code == 200

    @pytest.mark.parametrize("fault", [Refuse(), HalfOpen()])
    def test_whole_connections(self, server: PostHogServer, fault: Fault) -> None:
        """What befalls a connection cannot befall one endpoint."""
        with pytest.raises(ValueError, match="whole connections"):
            server.flags_fault = fault

    def test_gate_holds_faults(self, server: PostHogServer, pool: ThreadPoolExecutor) -> None:
        """A failing answer can be held as well."""
        server.flags_fault = Status(500)
        with server.gate():
            caller = pool.submit(ask, server)
            server.wait_until(lambda: server.in_flight)
            assert not caller.done()

        assert caller.result(LONG).status_code == 500


class TestWaiting:
    """Faults that keep the client waiting, and what ends the wait."""

    ENDS = pytest.mark.parametrize("end", ["heal", "pause", "stop"])

    @ENDS
    @pytest.mark.parametrize("times", [None, 1])
    def test_hang(
        self, server: PostHogServer, pool: ThreadPoolExecutor, end: str, times: int | None
    ) -> None:
        """A hanging request is recorded and never answered, only dropped in the end."""
        server.fault = Hang(times=times)
        caller = pool.submit(ask, server)
        server.wait_for_flag_calls(1)
        assert server.in_flight == 1
        getattr(server, end)()

        assert is_dropped(caller)

    @ENDS
    def test_half_open_connection(
        self, server: PostHogServer, pool: ThreadPoolExecutor, end: str
    ) -> None:
        """A half-open connection is accepted, and the request on it goes unread."""
        server.fault = HalfOpen()
        caller = pool.submit(ask, server)
        server.wait_until(lambda: server.connections == 1)
        getattr(server, end)()

        assert is_dropped(caller)
        assert server.requests == []

    def test_half_open_tls(self, server: PostHogServer, pool: ThreadPoolExecutor) -> None:
        """Over https a half-open connection is a handshake that hangs."""
        server.fault = HalfOpen()
        url = server.url.replace("http:", "https:")
        caller = pool.submit(requests.get, url, timeout=LONG)
        server.wait_until(lambda: server.connections == 1)
        assert not caller.done()
        server.heal()

        assert is_dropped(caller)

    def test_kept_connection_goes_silent(
        self, server: PostHogServer, pool: ThreadPoolExecutor
    ) -> None:
        """A connection from before the fault hangs from its next request on."""
        with requests.Session() as session:
            session.get(f"{server.url}/flags/", timeout=LONG)
            server.fault = HalfOpen()
            caller = pool.submit(session.get, f"{server.url}/flags/", timeout=LONG)
            server.wait_for_requests(2)
            server.heal()

            assert is_dropped(caller)

    def test_delay(self, server: PostHogServer) -> None:
        """A late answer is a correct one."""
        server.flags, server.fault = {"a": True}, Delay(0.001)

        assert flags_of(server).keys() == {"a"}

    def test_delay_ends_with_the_fault(
        self, server: PostHogServer, pool: ThreadPoolExecutor
    ) -> None:
        """Lifting a delay lets the answer go at once."""
        server.flags, server.fault = {"a": True}, Delay(LONG)
        caller = pool.submit(flags_of, server)
        server.wait_until(lambda: server.in_flight)
        server.fault = None

        assert caller.result(LONG).keys() == {"a"}

    @pytest.mark.parametrize("fault", [TrickleHeaders(7, 0), TrickleBody(7, 0)])
    def test_trickle(self, server: PostHogServer, fault: Fault) -> None:
        """An answer that comes in small pieces is complete in the end."""
        server.flags, server.fault = {"a": True}, fault

        assert flags_of(server).keys() == {"a"}

    @pytest.mark.parametrize(
        ("fault", "seen"),
        [
            (TrickleHeaders(3, LONG), b"HTT"),
            (TrickleBody(3, LONG), rb"HTTP/1.1 200 OK\r\n.*\r\n\r\n\{\"e"),
        ],
    )
    def test_trickle_ends_with_the_fault(
        self, server: PostHogServer, fault: Fault, seen: bytes
    ) -> None:
        """A trickle begins with a few bytes, and lifting it sends the rest."""
        server.fault = fault
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /flags/ HTTP/1.1\r\nConnection: close\r\n\r\n")
            stream = client.makefile("rb")
            start = b""
            while not re.fullmatch(seen, start, re.DOTALL):
                start += stream.read1(1)
            server.fault = None

            assert (start + stream.read()).endswith(b"}")

    def test_stop_ends_everything(self, pool: ThreadPoolExecutor) -> None:
        """Stopping waits for nothing: neither a fault, nor a gate, nor an idle connection."""
        with ExitStack() as stack:
            server = stack.enter_context(PostHogServer())
            session = stack.enter_context(requests.Session())
            session.get(f"{server.url}/flags/", timeout=LONG)
            stack.enter_context(server.gate())
            callers = [pool.submit(ask, server)]
            server.definitions_fault, server.events_fault = Hang(), TrickleBody(1, LONG)
            callers.append(pool.submit(define, server))
            callers.append(pool.submit(requests.post, f"{server.url}/capture/", json={}))
            server.wait_until(lambda: server.in_flight == 3)
            server.fault = HalfOpen()
            callers.append(pool.submit(define, server))
            server.wait_until(lambda: server.connections == 5)
            server.stop()

            assert server.connections == server.in_flight == 0
        for caller in callers:
            assert isinstance(caller.exception(LONG), requests.RequestException)


class TestLife:
    def test_start_and_stop_may_be_repeated(self) -> None:
        """Starting twice is starting once, and so is stopping."""
        server = PostHogServer()
        server.start()
        server.start()
        assert ask(server).status_code == 200
        server.stop()
        server.stop()

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))

    def test_restart_keeps_the_port(self) -> None:
        """A server that is started again is where it was."""
        server = PostHogServer()
        with server:
            url = server.url
        with server:
            assert (server.url, ask(server).status_code) == (url, 200)

    def test_pause_keeps_the_port(self, server: PostHogServer) -> None:
        """A paused server refuses connections, and nobody else can have its port."""
        server.pause()
        with socket.socket() as rival, pytest.raises(OSError, match="in use"):
            rival.bind(("127.0.0.1", server.port))
        with pytest.raises(requests.ConnectionError):
            ask(server)
        server.resume()

        assert ask(server).status_code == 200

    def test_resume_does_not_start(self) -> None:
        """Only a paused server resumes."""
        server = PostHogServer()
        server.resume()
        server.heal()

        assert server.port == 0

    def test_loopback_only(self, server: PostHogServer) -> None:
        """The server is for this machine."""
        assert server.url == f"http://127.0.0.1:{server.port}"

    def test_by_hand(self, tmp_path: Path) -> None:
        """Run as a program, the server says where it is and serves what the files declare."""
        flags, definitions = tmp_path / "flags.json", tmp_path / "definitions.json"
        flags.write_text('{"checkout": "test"}')
        definitions.write_text('{"flags": []}')
        command = [sys.executable, "-m", "tests.posthog_server"]
        command += ["--flags", str(flags), "--definitions", str(definitions)]
        root = Path(__file__).parent.parent
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            url = process.stdout.readline().strip()
            body = {"token": "phc_test", "distinct_id": "ada"}
            answer = requests.post(f"{url}/flags/?v=4", json=body, timeout=LONG)
            process.terminate()

        assert answer.json()["flags"]["checkout"]["value"] == "test"


class TestSdk:
    """The SDK, as a client that was written for the real one."""

    def test_evaluates(self, server: PostHogServer, sdk: Posthog) -> None:
        """The SDK reads values and payloads."""
        server.flags = {
            "new-nav": True,
            "legacy": False,
            "checkout": Variant("test", payload={"colour": "green"}),
            "browser-only": Flag(runtime="client"),
        }

        flags = sdk.evaluate_flags("ada")

        assert set(flags.keys) == {"new-nav", "legacy", "checkout"}
        assert (flags.is_enabled("new-nav"), flags.get_flag("legacy")) == (True, False)
        assert flags.get_flag("checkout") == "test"
        assert flags.get_flag_payload("checkout") == {"colour": "green"}

    def test_sends_events(self, server: PostHogServer, sdk: Posthog) -> None:
        """Reading a flag through the SDK yields the event that experiments count."""
        server.flags = {"checkout": Variant("test", id=7, version=3)}
        sdk.evaluate_flags("ada").get_flag("checkout")
        sdk.flush()

        (event,) = server.wait_for_events(1)

        assert (event["event"], event["distinct_id"]) == ("$feature_flag_called", "ada")
        assert event["properties"]["$feature_flag_response"] == "test"
        assert event["properties"]["$feature_flag_id"] == 7

    def test_loads_definitions(self, server: PostHogServer) -> None:
        """The SDK evaluates by itself what the definitions allow, and revalidates them."""
        group = {"properties": [], "rollout_percentage": 100}
        flag = {"id": 1, "key": "local", "active": True, "filters": {"groups": [group]}}
        server.definitions = {"flags": [flag], "group_type_mapping": {}, "cohorts": {}}
        client = Posthog(
            "phc_test", host=server.url, secret_key="phs_test", poll_interval=3600, send=False
        )

        flags = client.evaluate_flags("ada")
        client.load_feature_flags()
        client.shutdown()

        assert (flags.keys, server.flag_calls) == (["local"], [])
        assert (server.definitions_sent, server.definitions_not_modified) == (1, 1)

    @pytest.mark.parametrize(
        "fault", [Status(401), Status(402), Status(500), Quota(), Html(), Body(b"[]"), Reset()]
    )
    def test_has_no_flags_when_evaluation_fails(
        self, server: PostHogServer, sdk: Posthog, fault: Fault
    ) -> None:
        """Every failure looks to the SDK's caller like a project without flags."""
        server.flags, server.flags_fault = {"new-nav": True}, fault

        assert list(sdk.evaluate_flags("ada").keys) == []
        assert len(server.flag_calls) == 1
