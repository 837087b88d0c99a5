"""`manage.py posthog_status`: what flags stand on now, and whether that is well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from olposthog import conf
from olposthog._local import LocalEvaluator
from olposthog.management.base import OperatorCommand
from olposthog.management.layout import milliseconds, number_of_flags, table
from olposthog.management.undecided import definitions_report
from olposthog.status import (
    NO_CACHE,
    NOT_ASKED,
    CacheStatus,
    DefinitionsStatus,
    Health,
    SettingInForce,
    Status,
    definitions_in_use,
    how_long,
    in_words,
    status,
)

EXIT_CODES = {Health.OK: 0, Health.DISABLED: 0, Health.DEGRADED: 1, Health.MISCONFIGURED: 2}
OF_ONE_PROCESS = ("LocMemCache", "DummyCache")
"""Cache backends that share nothing: a command sees its own, which is empty."""


class Command(OperatorCommand):
    """Shows the status. Neither asks PostHog nor writes anything."""

    help = (
        "Show the circuit breaker's state, the shared cache, the flag definitions, the flags that "
        "they cannot decide, and the settings in effect, without asking PostHog. Ends with 0 when "
        "all is well or flags are disabled, with 1 when flags are degraded, and with 2 when a "
        "setting cannot be used. For alerts, not for liveness probes. Examples: posthog_status; "
        "posthog_status --json"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Say in which form."""
        parser.add_argument("--json", action="store_true", help="as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print it, and tell by the exit code how it is."""
        found, evaluator = status(), definitions_in_use()
        if options["json"]:
            document = {**asdict(found), "undecided": _undecided(evaluator)}
            self.stdout.write(json.dumps(document, indent=2, cls=DjangoJSONEncoder))
        else:
            self.say("\n".join(_lines(found, evaluator)))
        if EXIT_CODES[found.health]:
            raise CommandError(found.headline, returncode=EXIT_CODES[found.health])


def _undecided(evaluator: LocalEvaluator | None) -> list[dict[str, str]] | None:
    if evaluator is None:
        return None
    return [
        {"key": key, "reason": one.reason, "detail": one.detail, "fix": one.fix}
        for key, one in sorted(evaluator.undecidable.items())
    ]


def _lines(found: Status, evaluator: LocalEvaluator | None) -> Iterator[str]:
    yield found.headline
    for problem in found.problems:
        yield f"{problem.message} {problem.hint}"
    yield ""
    yield from table(
        [
            ("circuit", _circuit(found)),
            ("shared cache", _cache(found.shared_cache)),
            ("definitions", _definitions(found.definitions)),
        ]
    )
    yield ""
    if evaluator:
        report = list(definitions_report(evaluator, is_file=bool(conf.current().definitions_file)))
        yield from [*report, ""] if report else []
    refused = {problem.setting for problem in found.problems}
    yield from table(
        [
            (one.name, "cannot be used" if one.name in refused else _setting(one))
            for one in found.settings
        ]
    )


def _setting(one: SettingInForce) -> str:
    value = one.value if isinstance(one.value, str) and one.value else repr(one.value)
    return f"{value} (default)" if one.is_default else value


def _circuit(found: Status) -> str:
    if found.circuit:
        never = "" if found.circuit.changed_at else ", and never known to have been open"
        return f"{found.circuit}{never}"
    if conf.current().mode is not conf.Mode.REMOTE:
        return NOT_ASKED
    return "each process has its own" if found.shared_cache is None else "not known"


def _cache(cache: CacheStatus | None) -> str:
    if cache is None:
        return NO_CACHE
    backend = cache.backend.rpartition(".")[2]
    took = milliseconds(cache.seconds)
    outcome = f"answers in {took}" if cache.reachable else f"fails after {took} ({cache.failure})"
    note = "; it is each process's own" if backend in OF_ONE_PROCESS else ""
    return f"{cache.alias}, {backend}: {outcome}{note}"


def _definitions(definitions: DefinitionsStatus | None) -> str:
    if definitions is None:
        return "none"
    if definitions.failure and definitions.file:
        return definitions.failure
    parts = [f"file {definitions.file}" if definitions.file else "of the fleet"]
    if definitions.changed_at is None:
        parts.append("none yet")
    if definitions.flags is not None:
        parts.append(number_of_flags(definitions.flags))
    if definitions.changed_at:
        since = f"from {in_words(definitions.changed_at)}"
        parts.append(f"{since} ({_age(definitions.changed_at)} old)")
    if definitions.confirmed_at:
        parts.append(f"confirmed {_age(definitions.confirmed_at)} ago")
    if definitions.failure:
        parts.append(definitions.failure)
    return ", ".join(parts)


def _age(moment: datetime) -> str:
    """Return how long ago a moment was; another machine's clock may be ahead of ours."""
    return how_long(max(0, (datetime.now(UTC) - moment).total_seconds()))
