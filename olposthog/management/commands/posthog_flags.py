"""`manage.py posthog_flags`: what a person gets, and why."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ObjectDoesNotExist
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from olposthog import conf
from olposthog._core import engine
from olposthog._core.visibility import is_visible
from olposthog._local import DefinitionsError, read
from olposthog._local.poller import FETCH_SECONDS
from olposthog._shared.breaker import State
from olposthog.features import default_unique_id, evaluate
from olposthog.identity import Identity
from olposthog.inspection import InspectedFlag, Inspection, identity_of, inspect, known_keys
from olposthog.management.base import OperatorCommand
from olposthog.management.layout import milliseconds, table
from olposthog.management.undecided import undecided_rows
from olposthog.snapshot import Runtime, Source
from olposthog.status import in_words

TYPESCRIPT_HEADER = (
    "// Written by `manage.py posthog_flags --typescript`: the flags that browsers may see."
)
SERVER = "the server itself"
PATIENCE_SECONDS = 2.0
"""A command that waits longer says what for."""
VALUES = {True: "on", False: "off", None: "-"}
WIDTH = 100
"""Lines of the table are cut to so many characters."""


class Command(OperatorCommand):
    """Shows flags. Looking is no exposure."""

    help = (
        "Show the flags of the server itself or of one person: value, reason, source, and whether "
        "browsers see them. Nothing is reported to PostHog as an exposure. Examples: posthog_flags "
        "--user ada; posthog_flags --id 42 --json; posthog_flags --typescript > flags.ts"
    )

    patience_seconds = PATIENCE_SECONDS

    def add_arguments(self, parser: CommandParser) -> None:
        """Say whose flags, and in which form."""
        parser.add_argument(
            "--user", metavar="NAME", help="the person who logs in with this name; see --id"
        )
        parser.add_argument(
            "--id", metavar="DISTINCT_ID", help="the person whom PostHog knows by this distinct id"
        )
        parser.add_argument("--json", action="store_true", help="as JSON, with whole payloads")
        parser.add_argument(
            "--typescript",
            action="store_true",
            help="instead, the keys of all flags that browsers may see, as a TypeScript type; ends "
            "with 1 and prints nothing where keys would be missing",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print them."""
        try:
            if not options["typescript"]:
                self._show(*_person(options["user"], options["id"]), as_json=options["json"])
            elif options["json"] or options["user"] is not None or options["id"] is not None:
                raise CommandError(
                    "--typescript goes with no other option: the keys are the same for everybody."
                )
            else:
                self.tell("Asking for the keys of the flags that browsers may see ...")
                self.stdout.write(self._typescript())
        finally:
            self._settle()

    def _settle(self) -> None:
        """Finish what the fleet waits for: this may be the process that fetches definitions."""
        text = f"Finishing what other processes wait for, for {FETCH_SECONDS:g} s at most ..."
        notice = threading.Timer(self.patience_seconds, self.tell, [text])
        notice.start()
        try:
            engine.current().settle(FETCH_SECONDS)
        finally:
            notice.cancel()

    def _show(self, who: str, identity: Identity, *, as_json: bool) -> None:
        self.tell(f"Evaluating the flags of {who}, for Python code and for browsers ...")
        inspection = inspect(identity)
        if as_json:
            self.stdout.write(json.dumps(_document(inspection), indent=2))
        else:
            self.say("\n".join(_lines(who, inspection)))
        for line in _why(inspection.source):
            self.tell(line, self.style.WARNING)

    def _typescript(self) -> str:
        snapshot = evaluate(runtime=Runtime.CLIENT)
        if snapshot.source is Source.FALLBACK:
            raise CommandError(
                " ".join(["The keys that PostHog has are not known now.", *_why(snapshot.source)])
            )
        if snapshot.source is Source.STALE:
            self.tell("These are the last known keys: PostHog cannot be asked.", self.style.WARNING)
        if snapshot.source is Source.DISABLED:
            self.tell(
                "These are the keys of settings.FEATURES alone: POSTHOG_ENABLED is off.",
                self.style.WARNING,
            )
        return _union(sorted(filter(is_visible, known_keys(snapshot))))


def _person(username: str | None, distinct_id: str | None) -> tuple[str, Identity]:
    if username is not None and distinct_id is not None:
        raise CommandError("Give --user or --id, but not both.")
    if username is not None:
        return f"user {username}", _identity_of(username)
    if distinct_id == "":
        raise CommandError("--id needs a distinct id, for example --id 42.")
    return SERVER if distinct_id is None else "this person", Identity(
        distinct_id or default_unique_id()
    )


def _identity_of(username: str) -> Identity:
    try:
        manager: Any = get_user_model()._default_manager  # noqa: SLF001  # Django documents it
        return identity_of(manager.get_by_natural_key(username))
    except ObjectDoesNotExist as error:
        raise CommandError(
            f"There is no user {username!r}. --user takes the name that the user logs in with; "
            "for somebody who has none, give a distinct id: --id 42."
        ) from error
    except (AttributeError, DatabaseError, ImproperlyConfigured, ValueError) as error:
        raise CommandError(
            f"The user {username!r} cannot be looked up ({type(error).__name__}: {error}). "
            "Give a distinct id instead: --id 42."
        ) from error
    except LookupError as error:
        raise CommandError(str(error)) from error


def _document(inspection: Inspection) -> dict[str, Any]:
    return {
        "distinct_id": inspection.distinct_id,
        "source": inspection.source,
        "evaluated_at": inspection.evaluated_at.isoformat(),
        "seconds": inspection.seconds,
        "flags": [
            {
                "key": flag.key,
                "value": flag.value,
                "enabled": bool(flag.value),
                "variant": flag.value if isinstance(flag.value, str) else None,
                "payload": flag.payload,
                "reason": flag.reason,
                "source": flag.source,
                "undecided": flag.undecided and flag.undecided.detail,
                "fix": flag.undecided and flag.undecided.fix,
                "server": flag.server,
                "browsers": flag.browsers,
            }
            for flag in inspection.flags
        ],
    }


def _lines(who: str, inspection: Inspection) -> Iterator[str]:
    yield (
        f"Flags of {who} (distinct id {inspection.distinct_id}): {inspection.source}, evaluated "
        f"at {in_words(inspection.evaluated_at)}, "
        f"answered in {milliseconds(inspection.seconds)}"
    )
    if not inspection.flags:
        yield "There are none."
        return
    yield ""
    yield from table(
        [
            ("flag", "value", "source", "for", "reason", "payload"),
            *map(_row, inspection.flags),
        ],
        WIDTH,
    )
    undecided = {flag.key: flag.undecided for flag in inspection.flags if flag.undecided}
    if undecided:
        yield ""
        yield "Flags that the definitions cannot decide for this person:"
        yield from undecided_rows(undecided)


def _row(flag: InspectedFlag) -> tuple[str, ...]:
    value = flag.value if isinstance(flag.value, str) else VALUES[flag.value]
    payload = "" if flag.payload is None else json.dumps(flag.payload, ensure_ascii=False)
    reason = flag.reason or ("undecided" if flag.undecided else "")
    return flag.key, value, flag.source, _whom(flag), reason, payload


def _whom(flag: InspectedFlag) -> str:
    match flag.server, flag.browsers:
        case True, True:
            return "both"
        case True, False:
            return "server only"
        case False, True:
            return "browsers only"
    return "nobody"


def _why(source: Source) -> Iterator[str]:
    """Say why an answer is not PostHog's newest, as far as that is known, and what to do."""
    settings = conf.current()
    if source is Source.DISABLED:
        yield "POSTHOG_ENABLED is off: settings.FEATURES answers."
    elif source in (Source.FALLBACK, Source.STALE):
        values = "settings.FEATURES" if source is Source.FALLBACK else "the last known values"
        if settings.problems:
            yield f"PostHog was not asked, for a setting cannot be used: {values} answered."
            yield from (f"{problem.message} {problem.hint}" for problem in settings.problems)
        elif settings.definitions_file:
            yield from _fault_of_file(settings.definitions_file)
        else:
            yield f"PostHog could not be asked: {values} answered."
            state = engine.current().breaker.state
            if state is not State.CLOSED:
                yield f"Its circuit is {state}: see `manage.py posthog_status`."
            yield "Find the cause with `manage.py posthog_check`."


def _fault_of_file(path: str) -> Iterator[str]:
    """Say why the file cannot be used; nothing if it only leaves flags undecided."""
    try:
        read(path)
    except DefinitionsError as error:
        yield "The definitions file could not be used: settings.FEATURES answered."
        yield f"POSTHOG_FLAG_DEFINITIONS_FILE cannot be used: {error}"


def _union(keys: list[str]) -> str:
    if not keys:
        return f"{TYPESCRIPT_HEADER}\nexport type FlagKey = never;"
    members = "".join(f"\n  | {json.dumps(key)}" for key in keys)
    return f"{TYPESCRIPT_HEADER}\nexport type FlagKey ={members};"
