"""The shared cache: whether processes share it, what it keeps, and for how long."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.cache.backends.redis import RedisCache
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, router

from olposthog import conf
from olposthog._shared.shared_cache import DEFAULT_TIMEOUT_SECONDS, read_timeout
from olposthog._utils.log_lines import printable

from . import ids

POSTGRESQL_TIMEOUTS = {"connect_timeout": 2, "tcp_user_timeout": 2000, "keepalives_idle": 2}
"""The options of libpq that end a connection that is dead, with the values that the hint names."""
DEFAULT_MAX_ENTRIES = 300
"""What Django allows a `DatabaseCache` when MAX_ENTRIES is not set."""


def messages(settings: conf.Settings) -> Iterator[CheckMessage]:
    """Report what keeps processes from sharing answers and the one circuit breaker."""
    if settings.definitions_file:
        return  # a definitions file needs no cache
    alias = settings.cache_alias
    if alias is None:
        yield CheckWarning(
            'CACHES has no "durable": each process has a cache and a circuit breaker of its own.',
            hint='Add a CACHES["durable"] that all processes share, such as a DatabaseCache.',
            id=ids.NO_SHARED_CACHE,
        )
        return
    try:
        cache = _build(alias)
    except Exception as error:  # noqa: BLE001  # a backend may raise anything
        # The type alone, unless it names a module: a backend may quote an address with a password.
        is_import = isinstance(error, ImportError | ImproperlyConfigured)
        reason = printable(str(error)) if is_import else type(error).__name__
        yield Error(
            f"CACHES[{alias!r}] cannot be used: {reason}",
            hint="Mend its BACKEND, LOCATION and OPTIONS, or install the package that the backend "
            "needs. Until then each process has a circuit breaker of its own.",
            id=ids.BROKEN_CACHE,
        )
        return
    yield from _timeout(alias, settings)
    yield from _backend(alias, cache)


def _build(alias: str) -> BaseCache:
    cache = caches[alias]
    if isinstance(cache, RedisCache):
        # Django imports the client, and reads OPTIONS and LOCATION, only here. Nothing connects.
        cache._cache.get_client(None, write=True)  # noqa: SLF001
    return cache


def _timeout(alias: str, settings: conf.Settings) -> Iterator[CheckMessage]:
    try:
        seconds = read_timeout(alias)
    except ValueError:
        yield Error(
            f"CACHES[{alias!r}] has a TIMEOUT that is not a number of seconds. Django uses "
            f"{DEFAULT_TIMEOUT_SECONDS} instead.",
            hint="Set its TIMEOUT to the seconds that flags may be old, for example 300.",
            id=ids.BAD_CACHE_TIMEOUT,
        )
        return
    if seconds is None:
        yield CheckWarning(
            f"CACHES[{alias!r}] has the TIMEOUT None: a person's flags are asked for once, and "
            "never again.",
            hint="Set its TIMEOUT to the seconds that flags may be old, for example 300.",
            id=ids.NEVER_RENEWED,
        )
    elif seconds <= 0:
        yield CheckWarning(
            f"CACHES[{alias!r}] has the TIMEOUT {seconds:g}: no answer is ever fresh, and PostHog "
            "is asked again and again.",
            hint="Set its TIMEOUT to the seconds that flags may be old, for example 300.",
            id=ids.NEVER_FRESH,
        )
    elif settings.local_cache_seconds > seconds:
        yield CheckWarning(
            f"POSTHOG_LOCAL_CACHE_SECONDS is {settings.local_cache_seconds:g}, and the TIMEOUT of "
            f"CACHES[{alias!r}] is {seconds:g}: a process keeps answers for longer than they are "
            "fresh.",
            hint="Set POSTHOG_LOCAL_CACHE_SECONDS to a small part of that TIMEOUT, such as 5.",
            id=ids.KEPT_TOO_LONG,
        )


def _backend(alias: str, cache: BaseCache) -> Iterator[CheckMessage]:
    name = f"CACHES[{alias!r}] is a {type(cache).__name__}"
    if isinstance(cache, LocMemCache | DummyCache) and not django_settings.DEBUG:
        keeps = "keeps nothing" if isinstance(cache, DummyCache) else "no two processes share"
        yield CheckWarning(
            f"{name}, which {keeps}: each process asks PostHog for itself, and has a circuit "
            "breaker of its own.",
            hint=f"Make CACHES[{alias!r}] a DatabaseCache, or Redis; name another cache in "
            "POSTHOG_CACHE_ALIAS if the site has one.",
            id=ids.CACHE_NOT_SHARED,
        )
    if isinstance(cache, FileBasedCache) and not django_settings.DEBUG:
        yield CheckWarning(
            f"{name}, which one machine has for itself, which lets several processes win the same "
            "claim, and which throws entries away at random: several may probe, and the circuit "
            "breaker's state may be lost.",
            hint=f"Make CACHES[{alias!r}] a DatabaseCache, or Redis.",
            id=ids.FILE_CACHE,
        )
    if isinstance(cache, BaseDatabaseCache):
        # What Django understands, whatever CACHES says: text may count, and a misplaced one not.
        most: int = cache._max_entries  # noqa: SLF001
        if most <= DEFAULT_MAX_ENTRIES:
            yield CheckWarning(
                f"{name} of {most} entries: with more it throws entries away, long before they "
                "expire.",
                hint='Set OPTIONS: {"MAX_ENTRIES": …} to more than twice the people of one TIMEOUT '
                "and the longer stale window, twice that with "
                "POSTHOG_STALE_WHILE_REVALIDATE_SECONDS, plus 200.",
                id=ids.SMALL_CACHE,
            )
        if other := _other_use_of_table(alias, cache):
            yield CheckWarning(
                f"{name} whose table {other} too: when it is full it throws the first keys away, "
                "the circuit breaker's state and claims too if other keys sort after ours.",
                hint=f"Give CACHES[{alias!r}] a LOCATION of its own, and run createcachetable.",
                id=ids.CACHE_TABLE_SHARED,
            )
    hiding_option = _option_that_hides_failures(cache)
    if hiding_option:
        yield CheckWarning(
            f"{name} that ignores exceptions: nobody is told when it is away, and neither is the "
            "circuit breaker, which each process has for itself then.",
            hint=f'Set OPTIONS: {{"{hiding_option}": False}} for it. Flags are answered all the '
            "same while it is away.",
            id=ids.FAILURES_HIDDEN,
        )
    if missing := _missing_timeouts(cache):
        recommended = ", ".join(f'"{name}": {POSTGRESQL_TIMEOUTS[name]}' for name in missing)
        yield CheckWarning(
            f"{name} in PostgreSQL without {', '.join(missing)}: a network that drops packets "
            "without an error holds its threads for minutes.",
            hint=f"Set OPTIONS: {{{recommended}}} for its database, which may be an alias of its "
            "own.",
            id=ids.POSTGRESQL_WITHOUT_TIMEOUT,
        )
    if _may_wait_for_ever(cache):
        yield CheckWarning(
            f"{name} without a socket timeout: a connection that died without a word holds a "
            "thread for a quarter of an hour.",
            hint='Set OPTIONS: {"socket_timeout": 1, "socket_connect_timeout": 1}; with '
            "django-redis they are SOCKET_TIMEOUT and SOCKET_CONNECT_TIMEOUT.",
            id=ids.REDIS_WITHOUT_TIMEOUT,
        )


def _other_use_of_table(alias: str, cache: BaseDatabaseCache) -> str:
    """Return who else uses the table of a `DatabaseCache` by the settings, "" if there is none."""
    for other in sorted(set(django_settings.CACHES) - {alias}):
        try:
            others = caches[other]
        except Exception:  # noqa: BLE001, S112  # a backend may raise anything
            continue
        if isinstance(others, BaseDatabaseCache) and _table(others) == _table(cache):
            return f"CACHES[{other!r}] uses"
    has_sessions = "cache" in django_settings.SESSION_ENGINE.rpartition(".")[2]
    return "sessions use" if has_sessions and alias == django_settings.SESSION_CACHE_ALIAS else ""


def _table(cache: BaseDatabaseCache) -> str:
    return str(cache.cache_model_class._meta.db_table)  # noqa: SLF001  # documented by Django


def _missing_timeouts(cache: BaseCache) -> list[str]:
    """Return which timeouts the PostgreSQL connections of a `DatabaseCache` over TCP lack.

    libpq has an environment variable for the first one.
    """
    if not isinstance(cache, BaseDatabaseCache):
        return []
    try:
        connection = connections[router.db_for_read(cache.cache_model_class)]
    except Exception:  # noqa: BLE001  # a router may raise anything
        return []
    options = connection.settings_dict.get("OPTIONS") or {}
    host = str(connection.settings_dict.get("HOST") or options.get("host") or "")
    if connection.vendor != "postgresql" or not host or host.startswith(("/", "@")):
        return []
    set_options = {name for name, value in options.items() if value}
    if os.environ.get("PGCONNECT_TIMEOUT"):
        set_options.add("connect_timeout")
    return [name for name in POSTGRESQL_TIMEOUTS if name not in set_options]


def _option_that_hides_failures(cache: Any) -> str:
    """Return the option by which a cache looks empty while it is unavailable, "" if it does not.

    For django-redis its OPTIONS count, and in their absence its own setting.
    """
    if getattr(cache, "_ignore_exceptions", False):
        return "IGNORE_EXCEPTIONS"
    # Django keeps the options of a memcached client here.
    if isinstance(cache, BaseMemcachedCache) and getattr(cache, "_options", {}).get("ignore_exc"):
        return "ignore_exc"
    return ""


def _may_wait_for_ever(cache: Any) -> bool:
    """Return whether a Redis client, Django's or django-redis', has no timeout of any origin.

    OPTIONS, the query of the address and the client's own default all count, so the answer is
    that of a connection, which is made and not opened.
    """
    try:
        client = cache._cache if isinstance(cache, RedisCache) else cache.client  # noqa: SLF001
        pool = client.get_client(write=True).connection_pool
        return pool.connection_class(**pool.connection_kwargs).socket_timeout is None
    except Exception:  # noqa: BLE001  # no Redis, or one that only its own package understands
        return False


def check_cache_table(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Report that the table of the shared cache is missing, if it belongs in one of `databases`.

    A warning, since `migrate` comes before `createcachetable` and would refuse to run.
    """
    settings = conf.current()
    alias = settings.cache_alias
    if not settings.enabled or settings.definitions_file or alias is None:
        return []
    return [
        CheckWarning(
            f"CACHES[{alias!r}] is a DatabaseCache, and its table is missing: each process has a "
            "circuit breaker of its own.",
            hint=fix,
            id=ids.NO_CACHE_TABLE,
        )
        for fix in how_to_make_table(alias, databases or ())
    ]


def how_to_make_table(alias: str, databases: Collection[str]) -> Iterator[str]:
    """Yield how to make the table of a `DatabaseCache` that lacks it in one of `databases`."""
    try:
        cache = caches[alias]
        if not isinstance(cache, BaseDatabaseCache):
            return
        entries = cache.cache_model_class
        database = router.db_for_write(entries)
        if database not in databases:
            return
        tables = connections[database].introspection.table_names()
        allowed = router.allow_migrate_model(database, entries)
    except Exception:  # noqa: BLE001  # the database is away, or the cache or a router is broken
        return
    table = str(entries._meta.db_table)  # noqa: SLF001  # documented by Django
    # Some databases change a name's case.
    if table.lower() in {one.lower() for one in tables}:
        return
    where = "" if database == DEFAULT_DB_ALIAS else f" --database {database}"
    first = "" if allowed else f"Let the router's allow_migrate have django_cache in {database!r}. "
    yield f"{first}Run: python manage.py createcachetable{where}"
