"""`manage.py posthog_check`: can this machine ask PostHog, and what does a first request cost."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.management.base import CommandError, CommandParser

from olposthog import conf
from olposthog._core import engine
from olposthog._evaluation.evaluation import Evaluation
from olposthog._local import Definitions, DefinitionsError, LocalEvaluator, parse, read
from olposthog._local.poller import FETCH_SECONDS
from olposthog._posthog import PostHogApi, Way
from olposthog._posthog.errors import WRONG_ADDRESS, PostHogError
from olposthog._shared.shared_cache import FIRST_READ_SECONDS, READ_SECONDS, SharedCache
from olposthog._utils.workers import within
from olposthog.identity import Identity
from olposthog.management.base import OperatorCommand
from olposthog.management.layout import milliseconds, number_of_flags
from olposthog.management.undecided import definitions_report
from olposthog.snapshot import Runtime

T = TypeVar("T")

PROBE_KEY = "olposthog:check"
PROBE_SECONDS = 60
WITHOUT_DEFINITIONS = (
    "A flag that is disabled in PostHog is not off: PostHog leaves it out of its answers, and the "
    "value in settings.FEATURES is used. To turn a flag off, set its rollout to 0 %, or set it to "
    "False in settings.FEATURES. With POSTHOG_PERSONAL_API_KEY, a disabled flag is off."
)
SLOW_SHARE = 0.5
"""A first request that takes more of the trip threshold than this leaves too little room."""


class Command(OperatorCommand):
    """Takes one step after the other, and times each. The first that fails is the last."""

    help = (
        "Check step by step whether PostHog can be asked with the keys in use, and time each step. "
        "Asks PostHog directly, past the circuit breaker, whose state it leaves alone. PostHog "
        "bills two requests, and ten more for the flag definitions. Ends with 1 at the first step "
        "that fails. Examples: posthog_check; posthog_check --no-definitions"
    )
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def add_arguments(self, parser: CommandParser) -> None:
        """Say what to leave out."""
        parser.add_argument(
            "--no-definitions",
            action="store_false",
            dest="definitions",
            help="do not fetch the flag definitions, for which PostHog bills ten requests",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Take the steps."""
        settings = conf.current()
        if settings.problems:
            raise CommandError(
                "\n".join(f"{problem.message} {problem.hint}" for problem in settings.problems)
            )
        if not settings.enabled:
            self.say(
                "POSTHOG_ENABLED is off: settings.FEATURES answers, and PostHog is not asked. To "
                f"ask it, set POSTHOG_ENABLED = True{_and_set(settings)}."
            )
            return
        if settings.definitions_file:
            self._check_file(settings)
            return
        if settings.isolated:
            raise CommandError("A test runs: ask PostHog by override_flags(ask_posthog=True).")
        api = PostHogApi(replace(settings, max_retries=0), connections=1)
        way = api.way
        self.say(f"settings: ok, PostHog is at port {way.port} of {way.host}")
        self._check_cache(engine.current().shared)
        self._check_way(way, settings)
        first, later = self._check_evaluation(api, settings)
        self._check_definitions(api, settings, wanted=options["definitions"])
        self._conclude(first, later, settings)

    def _check_file(self, settings: conf.Settings) -> None:
        path = settings.definitions_file
        evaluator, _ = self._step(
            f"definitions file {path}",
            READ_SECONDS * 10,
            lambda: LocalEvaluator(read(path)),
            say=lambda found: number_of_flags(len(found.definitions.flags)),
            hint="Fix it, or write another with `manage.py posthog_export`.",
        )
        self._report(evaluator, settings)
        self.say(
            "Flags come from this file, and PostHog is not asked. To ask it, unset "
            f"POSTHOG_FLAG_DEFINITIONS_FILE{_and_set(settings)}."
        )

    def _check_cache(self, shared: SharedCache) -> None:
        if shared.alias is None:
            self.say('shared cache: none, for CACHES has no "durable"')
            return
        self._step(
            f"shared cache {shared.alias}",
            FIRST_READ_SECONDS + 2 * READ_SECONDS,  # it has deadlines of its own
            lambda: _write_and_read(shared),
            hint=f"Check CACHES[{shared.alias!r}]: {_what_cache_needs(shared.alias)}.",
        )

    def _check_way(self, way: Way, settings: conf.Settings) -> None:
        if way.proxy:
            self.say(f"through the proxy {way.proxy}: name lookup and connection are its")
            return
        seconds = settings.trip_threshold_seconds
        addresses, _ = self._step(
            f"name lookup of {way.host}",
            seconds,
            way.look_up,
            say=lambda found: ", ".join(dict.fromkeys(str(one.sockaddr[0]) for one in found)),
            hint="Check the name servers of this machine.",
        )
        connection, _ = self._step(
            f"connection to port {way.port}",
            seconds,
            lambda: way.connect(addresses, settings.timeout_seconds),
            hint="Does a firewall let this machine reach it?",
        )
        with connection:
            if way.tls:
                self._step(
                    "TLS",
                    seconds,
                    lambda: way.shake_hands(connection),
                    say=str,
                    hint="Does a firewall or a proxy hold it up?",
                )

    def _check_evaluation(self, api: PostHogApi, settings: conf.Settings) -> tuple[float, float]:
        """Return how long the first one took, and how long another on the same connection."""
        costs = []
        for name in (
            "first evaluation, by POSTHOG_PROJECT_API_KEY",
            "second evaluation, on the same connection",
        ):
            _, seconds = self._step(
                name,
                settings.trip_threshold_seconds,
                lambda: _evaluate(api, settings),
                say=lambda found: number_of_flags(len(found.decisions)),
                hint="PostHog was reached, but gave no flags: is it well?",
            )
            costs.append(seconds)
        return costs[0], costs[1]

    def _check_definitions(self, api: PostHogApi, settings: conf.Settings, *, wanted: bool) -> None:
        if not settings.personal_api_key:
            self.say("flag definitions: POSTHOG_PERSONAL_API_KEY is not set")
            self.say(WITHOUT_DEFINITIONS)
        elif not wanted:
            self.say("flag definitions: skipped")
        else:
            (evaluator, _), _ = self._step(
                "flag definitions, by POSTHOG_PERSONAL_API_KEY (PostHog bills ten requests)",
                FETCH_SECONDS,
                lambda: _fetch_definitions(api),
                say=lambda found: f"{number_of_flags(len(found[0].definitions.flags))}, {found[1]}",
                hint=WRONG_ADDRESS,
            )
            self._report(evaluator, settings)

    def _report(self, evaluator: LocalEvaluator, settings: conf.Settings) -> None:
        for line in definitions_report(evaluator, is_file=bool(settings.definitions_file)):
            self.say(line)
        self._report_disabled(evaluator.definitions, settings)

    def _report_disabled(self, definitions: Definitions, settings: conf.Settings) -> None:
        """Name the flags that are disabled in PostHog and on in `settings.FEATURES`."""
        disabled = (
            key for key, flag in definitions.flags.items() if flag.data.get("active") is False
        )
        if keys := sorted(key for key in disabled if settings.features.get(key)):
            self.say(
                f"Disabled in PostHog, and on in settings.FEATURES: {', '.join(keys)}. Definitions "
                "evaluate them to off. A process without definitions uses settings.FEATURES. Set "
                "them to False there.",
                self.style.WARNING,
            )

    def _conclude(self, first: float, later: float, settings: conf.Settings) -> None:
        threshold = settings.trip_threshold_seconds
        self.say(
            f"A process's first request takes {milliseconds(first)}, a later one "
            f"{milliseconds(later)}; one that takes {threshold:g} s opens the circuit."
        )
        if first > threshold * SLOW_SHARE:
            self.say(
                "The first request took more than half of that: raise "
                "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS, or bring PostHog closer.",
                self.style.WARNING,
            )

    def _step(
        self,
        name: str,
        seconds: float,
        job: Callable[[], T],
        *,
        say: Callable[[T], str] = lambda result: "ok",
        hint: str = "",
    ) -> tuple[T, float]:
        """Do a step within `seconds`; return its result, and how long it took."""
        self.say(f"{name} ... ", ending="")
        started = self.clock()
        try:
            result = within(seconds, job)
        except Exception as error:  # noqa: BLE001  # whatever it is, an operator gets a sentence
            self.say(f"failed after {milliseconds(self.clock() - started)}")
            # No cause, not even with --traceback: it may quote the request's address, and a key.
            raise CommandError(
                f"{name}: {_cause(error, seconds)} {_fix(error, hint)}".rstrip()
            ) from None
        took = self.clock() - started
        self.say(f"{milliseconds(took)}, {say(result)}")
        return result, took


def _and_set(settings: conf.Settings) -> str:
    """Return which settings are wanting to ask PostHog, as the end of a sentence."""
    given = {
        "POSTHOG_PROJECT_API_KEY": settings.project_api_key,
        "POSTHOG_API_HOST": settings.api_host,
    }
    missing = " and ".join(name for name, value in given.items() if not value)
    return missing and f", and set {missing}"


def _what_cache_needs(alias: str) -> str:
    with suppress(Exception):  # a backend that cannot be made may raise anything
        if isinstance(caches[alias], BaseDatabaseCache):
            return "it needs its database, and the table that `manage.py createcachetable` makes"
    return "its LOCATION must be reachable from this machine"


def _write_and_read(shared: SharedCache) -> None:
    token = secrets.token_hex(8)

    def write(cache: BaseCache) -> bool:
        cache.set(PROBE_KEY, token, PROBE_SECONDS)
        return True

    if shared.get_many([PROBE_KEY], FIRST_READ_SECONDS) is None:
        raise PostHogError(f"it cannot be read ({shared.failure or 'no answer in time'})")
    written = shared.write(write, READ_SECONDS)
    found = shared.get_many([PROBE_KEY], READ_SECONDS) or {}
    if not written or found.get(PROBE_KEY) != token:
        raise PostHogError(f"it does not keep what is written ({shared.failure or 'in silence'})")


def _evaluate(api: PostHogApi, settings: conf.Settings) -> Evaluation:
    return api.fetch(
        Identity(settings.hostname),
        {},
        Runtime.SERVER,
        deadline=time.monotonic() + settings.trip_threshold_seconds,
        may_retry=lambda: False,
    )


def _fetch_definitions(api: PostHogApi) -> tuple[LocalEvaluator, str]:
    """Return the definitions, compiled, and their size in words."""
    deadline = time.monotonic() + FETCH_SECONDS
    text = api.fetch_definitions(None, deadline=deadline).text or ""
    size = len(text.encode(errors="replace")) / 1024
    return LocalEvaluator(parse(text, "PostHog's reply")), f"{size:.1f} KiB"


def _cause(error: Exception, seconds: float) -> str:
    match error:
        case TimeoutError():
            return f"no answer within {seconds:g} s."
        case DefinitionsError():
            return str(error)
        case PostHogError():
            return f"{error}."
    # The type alone: what else goes wrong in a request may quote its address, and a key.
    return f"{type(error).__name__}."


def _fix(error: Exception, hint: str) -> str:
    return error.hint if isinstance(error, PostHogError) and error.hint else hint
