"""The shared cache: whether processes share it, what it keeps, and for how long."""

from typing import Any

import pytest
import redis
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from django.db import connection
from django.db.utils import ConnectionHandler

from olposthog.checks import ids
from tests.checks.project import ENABLED, Project, error, found, found_ids, warning

BACKENDS = "django.core.cache.backends"
LOCAL = f"{BACKENDS}.locmem.LocMemCache"
DUMMY = f"{BACKENDS}.dummy.DummyCache"
DATABASE = f"{BACKENDS}.db.DatabaseCache"
REDIS = f"{BACKENDS}.redis.RedisCache"
SECRET = "a-password"
REDIS_URL = f"redis://:{SECRET}@127.0.0.1:1/0"  # nothing listens there


class OwnLocal(LocMemCache):
    """A site's own cache, which is as local as what it is made of."""


class OwnDatabase(DatabaseCache):
    """A site's own cache in a database."""


@pytest.fixture
def durable(production):
    """Change what `CACHES["durable"]` says."""

    def change(**entry: Any) -> None:
        production.CACHES = {
            **production.CACHES,
            "durable": {**production.CACHES["durable"], **entry},
        }

    return change


def test_no_shared_cache(production):
    """Without a shared cache each process is on its own."""
    production.CACHES = {"default": production.CACHES["default"]}

    assert warning().id == ids.NO_SHARED_CACHE
    assert 'CACHES["durable"]' in str(warning().hint)


@pytest.mark.parametrize("backend", [LOCAL, DUMMY, f"{__name__}.OwnLocal"])
def test_cache_that_is_not_shared(production, durable, backend):
    """In production, a cache of one process, or none, is no shared cache; nor is a subclass."""
    durable(BACKEND=backend)

    assert warning().id == ids.CACHE_NOT_SHARED
    assert f"CACHES['durable'] is a {backend.rpartition('.')[2]}" in warning().msg
    assert "DatabaseCache" in str(warning().hint)

    production.DEBUG = True
    assert found() == []


def test_file_cache(production, durable, tmp_path):
    """In production, files are shared by one machine alone, and claimed by several."""
    durable(BACKEND=f"{BACKENDS}.filebased.FileBasedCache", LOCATION=str(tmp_path))

    assert warning().id == ids.FILE_CACHE
    assert "CACHES['durable'] is a FileBasedCache" in warning().msg
    assert "DatabaseCache" in str(warning().hint)

    production.DEBUG = True
    assert found() == []


@pytest.mark.parametrize("backend", [DATABASE, f"{__name__}.OwnDatabase"])
@pytest.mark.parametrize(
    "entry",
    [
        {"OPTIONS": {}},
        {"OPTIONS": {"CULL_FREQUENCY": 2}},
        {"OPTIONS": {"MAX_ENTRIES": 300}},
        {"OPTIONS": {"MAX_ENTRIES": "200"}},
        {"OPTIONS": {"MAX_ENTRIES": None}},
        {"OPTIONS": {"MAX_ENTRIES": "many"}},
        {"OPTIONS": {}, "MAX_ENTRIES": 100_000},  # where Django does not look
        {"OPTIONS": {"MAX_ENTRIES": 100_000}, "max_entries": 300},  # where it looks first
    ],
    ids=repr,
)
def test_a_small_database_cache(durable, backend, entry):
    """A `DatabaseCache` with Django's default of 300 entries, of any origin, is too small."""
    durable(BACKEND=backend, **entry)

    assert warning().id == ids.SMALL_CACHE
    assert "CACHES['durable']" in warning().msg
    assert "MAX_ENTRIES" in str(warning().hint)


@pytest.mark.parametrize(
    "entry",
    [
        {"OPTIONS": {"MAX_ENTRIES": 301}},
        {"OPTIONS": {"MAX_ENTRIES": "100000"}},
        {"OPTIONS": {}, "max_entries": 301},  # where Django looks first
        {"OPTIONS": {"MAX_ENTRIES": 200}, "max_entries": 301},
    ],
    ids=repr,
)
def test_a_large_database_cache(durable, entry):
    """More is for the site to judge, as a number or as text, wherever Django reads it."""
    durable(**entry)

    assert found() == []


def test_another_small_database_cache_is_not_ours(production):
    """It is the cache under POSTHOG_CACHE_ALIAS that counts."""
    small = {"BACKEND": DATABASE, "LOCATION": "pages"}
    production.CACHES = {**production.CACHES, "default": small}
    assert found() == []

    production.POSTHOG_CACHE_ALIAS = "default"
    assert warning().id == ids.SMALL_CACHE
    assert "default" in warning().msg


def test_definitions_file_needs_no_cache(production, tmp_path):
    """With a definitions file nothing is shared, so no cache is too bad."""
    file = tmp_path / "flags.json"
    file.write_text('{"flags": []}')
    production.POSTHOG_FLAG_DEFINITIONS_FILE = file
    del production.POSTHOG_API_HOST
    production.CACHES = {"default": {"BACKEND": DUMMY}}

    assert found_ids() == ["olposthog_api.W003"]  # the throttle's


# TIMEOUT


@pytest.mark.parametrize("name", ["TIMEOUT", "timeout"])
@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.5, "0"], ids=repr)
def test_never_fresh(durable, name, timeout):
    """With a TIMEOUT of nothing each check asks PostHog."""
    durable(**{name: timeout})

    assert warning().id == ids.NEVER_FRESH
    assert "CACHES['durable'] has the TIMEOUT" in warning().msg
    assert "for example 300" in str(warning().hint)


@pytest.mark.parametrize("timeouts", [{"TIMEOUT": None}, {"timeout": None, "TIMEOUT": 60}], ids=str)
def test_never_renewed(durable, timeouts):
    """With the TIMEOUT None a flag that changes stays what it was."""
    durable(**timeouts)

    assert warning().id == ids.NEVER_RENEWED
    assert "CACHES['durable'] has the TIMEOUT None" in warning().msg
    assert "for example 300" in str(warning().hint)


@pytest.mark.parametrize("name", ["TIMEOUT", "timeout"])
@pytest.mark.parametrize("timeout", ["five", "", "0.5", float("nan"), [], {}, object], ids=repr)
def test_bad_timeout(durable, name, timeout):
    """A TIMEOUT that is not a number is an error: Django uses its default without a word."""
    durable(**{name: timeout})

    assert error().id == ids.BAD_CACHE_TIMEOUT
    assert "CACHES['durable'] has a TIMEOUT" in error().msg
    assert "Django uses 300" in error().msg
    assert "for example 300" in str(error().hint)


@pytest.mark.parametrize("name", ["TIMEOUT", "timeout"])
@pytest.mark.parametrize("timeout", [300, 60.5, "300"], ids=repr)
def test_good_timeout(durable, name, timeout):
    """A number of seconds is one, also as text and under a key in lower case."""
    durable(**{name: timeout})

    assert found() == []


def test_kept_for_longer_than_fresh(production, durable):
    """What a process keeps for longer than TIMEOUT is older than the site meant."""
    durable(TIMEOUT=10)
    production.POSTHOG_LOCAL_CACHE_SECONDS = 10
    assert found() == []

    production.POSTHOG_LOCAL_CACHE_SECONDS = 11
    assert warning().id == ids.KEPT_TOO_LONG
    assert warning().msg.startswith("POSTHOG_LOCAL_CACHE_SECONDS is 11")
    assert "TIMEOUT of CACHES['durable'] is 10" in warning().msg
    assert "POSTHOG_LOCAL_CACHE_SECONDS" in str(warning().hint)


@pytest.mark.parametrize("location", ["flags", "pages"])
def test_table_that_another_alias_uses(production, durable, location):
    """A table that holds keys of the site too may lose ours, so it is named; another one is not."""
    durable(BACKEND=DATABASE, LOCATION="flags", OPTIONS={"MAX_ENTRIES": 10_000})
    pages = {"BACKEND": DATABASE, "LOCATION": location}
    production.CACHES = {**production.CACHES, "pages": pages}

    if location == "pages":
        assert found() == []
    else:
        assert warning().id == ids.CACHE_TABLE_SHARED
        assert "whose table CACHES['pages'] uses too" in warning().msg


@pytest.mark.parametrize("engine", ["cache", "cached_db"])
def test_table_that_sessions_use(production, durable, engine):
    """Sessions in the same alias sort after our keys, so they are named."""
    durable(BACKEND=DATABASE, LOCATION="flags", OPTIONS={"MAX_ENTRIES": 10_000})
    production.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    production.SESSION_CACHE_ALIAS = "durable"

    assert warning().id == ids.CACHE_TABLE_SHARED
    assert "whose table sessions use too" in warning().msg


# PostgreSQL


TIMEOUTS = {"connect_timeout": 2, "tcp_user_timeout": 2000, "keepalives_idle": 2}


@pytest.fixture
def postgresql(durable, monkeypatch):
    """Change the settings of the database that the shared cache is in; nothing connects."""
    durable(BACKEND=DATABASE, LOCATION="flags", OPTIONS={"MAX_ENTRIES": 10_000})
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)

    def change(**settings: Any) -> None:
        engine = {"ENGINE": "django.db.backends.postgresql", "NAME": "site", "PASSWORD": SECRET}
        databases = ConnectionHandler({"default": {**engine, **settings}})
        monkeypatch.setattr("olposthog.checks.shared_cache.connections", databases)

    return change


@pytest.mark.parametrize("missing", [[*TIMEOUTS], ["tcp_user_timeout"], ["connect_timeout"]])
def test_postgresql_without_timeout(postgresql, missing):
    """A PostgreSQL that may be waited for without end is named, with the options that it lacks."""
    options = {name: value for name, value in TIMEOUTS.items() if name not in missing}
    postgresql(HOST="db.example.com", OPTIONS=options)

    assert warning().id == ids.POSTGRESQL_WITHOUT_TIMEOUT
    assert f"PostgreSQL without {', '.join(missing)}:" in warning().msg
    for name, value in TIMEOUTS.items():
        assert (f'"{name}": {value}' in str(warning().hint)) is (name in missing)
    assert SECRET not in str(found())


def test_postgresql_with_timeouts(postgresql):
    """With all timeouts there is nothing to report."""
    postgresql(HOST="db.example.com", OPTIONS=TIMEOUTS)

    assert found() == []


def test_postgresql_with_timeout_of_the_environment(postgresql, monkeypatch):
    """The environment variable of libpq counts too."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    options = {name: value for name, value in TIMEOUTS.items() if name != "connect_timeout"}
    postgresql(HOST="db.example.com", OPTIONS=options)

    assert found() == []


@pytest.mark.parametrize("host", ["", "/run/postgresql"])
def test_postgresql_on_a_unix_socket(postgresql, host):
    """A connection on the same machine does not die without an error."""
    postgresql(HOST=host)

    assert found() == []


# Redis


class DjangoRedis(BaseCache):
    """As django-redis has its client, as far as that matters here."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.pool = redis.ConnectionPool.from_url(location, **params["OPTIONS"])

    @property
    def client(self) -> Any:
        return self

    def get_client(self, write: bool = True) -> Any:
        return redis.Redis(connection_pool=self.pool)


EACH_REDIS = pytest.mark.parametrize("backend", [REDIS, f"{__name__}.DjangoRedis"])


@EACH_REDIS
def test_redis_without_timeout(durable, backend):
    """A Redis that may be waited for without end is named, with the options and no password."""
    durable(
        BACKEND=backend,
        LOCATION=REDIS_URL,
        OPTIONS={"socket_timeout": None, "socket_connect_timeout": 1},
    )

    assert warning().id == ids.REDIS_WITHOUT_TIMEOUT
    assert "CACHES['durable']" in warning().msg
    for name in ("socket_timeout", "socket_connect_timeout", "SOCKET_CONNECT_TIMEOUT"):
        assert name in str(warning().hint)
    assert SECRET not in str(found())


@EACH_REDIS
@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {"socket_timeout": 1, "socket_connect_timeout": 1}),
        ("", {"socket_timeout": 1}),
        ("?socket_timeout=1", {"socket_timeout": None}),
    ],
)
def test_redis_with_timeout(durable, backend, query, options):
    """A timeout counts wherever it comes from."""
    durable(BACKEND=backend, LOCATION=f"{REDIS_URL}{query}", OPTIONS=options)

    assert found() == []


def test_redis_of_several_servers(durable):
    """With replicas it is the server for writing that is looked at."""
    durable(BACKEND=REDIS, LOCATION=[REDIS_URL, REDIS_URL], OPTIONS={"socket_timeout": 1})

    assert found() == []


DJANGO_REDIS = "django_redis.cache.RedisCache"
PATIENT = {"SOCKET_TIMEOUT": 1, "SOCKET_CONNECT_TIMEOUT": 1}


@pytest.mark.parametrize("where", ["OPTIONS", "setting"])
def test_redis_that_hides_failures(production, durable, where):
    """A Redis that looks empty while it is away is named, whoever told it to."""
    ignoring = {"IGNORE_EXCEPTIONS": True} if where == "OPTIONS" else {}
    production.DJANGO_REDIS_IGNORE_EXCEPTIONS = where == "setting"
    durable(BACKEND=DJANGO_REDIS, LOCATION=REDIS_URL, OPTIONS={**PATIENT, **ignoring})

    assert warning().id == ids.FAILURES_HIDDEN
    assert "CACHES['durable']" in warning().msg
    assert "IGNORE_EXCEPTIONS" in str(warning().hint)
    assert SECRET not in str(found())


@pytest.mark.parametrize("setting", [True, False])
def test_redis_that_hides_nothing(production, durable, setting):
    """Its OPTIONS have the last word."""
    production.DJANGO_REDIS_IGNORE_EXCEPTIONS = setting
    options = {**PATIENT, "IGNORE_EXCEPTIONS": False}
    durable(BACKEND=DJANGO_REDIS, LOCATION=REDIS_URL, OPTIONS=options)

    assert found() == []


# A cache that cannot be had


@pytest.fixture
def broken(durable):
    """What is said of a broken cache; Django's own checks raise what it raises."""

    def say(**entry: Any) -> Any:
        from django.core.checks import run_checks

        durable(**entry)
        (message,) = run_checks(tags=["olposthog"])
        return message

    return say


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"BACKEND": "nowhere.Cache"}, "nowhere.Cache"),
        ({"BACKEND": f"{BACKENDS}.db.NoCache"}, "NoCache"),
        ({"BACKEND": 42}, "AttributeError"),
        ({"OPTIONS": None}, "AttributeError"),
        ({"BACKEND": REDIS, "OPTIONS": {"pool_class": "nowhere.Pool"}}, "nowhere"),
        ({"BACKEND": REDIS, "OPTIONS": {}, "LOCATION": f"valkey://:{SECRET}@h"}, "ValueError"),
        ({"BACKEND": f"{__name__}.Leaky", "LOCATION": REDIS_URL}, "ValueError"),
    ],
    ids=repr,
)
def test_broken_cache(broken, entry, reason):
    """A cache that cannot be made is an error with the reason, as far as that holds no secret."""
    message = broken(**entry)

    assert message.id == ids.BROKEN_CACHE
    assert message.is_serious()
    assert "CACHES['durable']" in message.msg
    assert reason in message.msg
    assert "BACKEND, LOCATION and OPTIONS" in message.hint
    assert SECRET not in str(message)


@pytest.mark.parametrize("hides", [True, False])
def test_memcached_that_ignores_exceptions(durable, hides):
    """A pymemcache that looks empty while it is unavailable hides that from the breaker."""
    memcached = f"{BACKENDS}.memcached.PyMemcacheCache"
    durable(BACKEND=memcached, LOCATION="127.0.0.1:1", OPTIONS={"ignore_exc": hides})

    assert found_ids() == ([ids.FAILURES_HIDDEN] if hides else [])
    if hides:
        assert "ignore_exc" in str(warning().hint)


class Leaky(BaseCache):
    """A backend that complains about its address."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        raise ValueError(location)


# The table of a DatabaseCache


@pytest.mark.django_db
def test_no_cache_table(production):
    """A table that is missing is a warning with the command, until that has been run."""
    assert warning(["default"]).id == ids.NO_CACHE_TABLE
    assert "CACHES['durable']" in warning(["default"]).msg
    assert warning(["default"]).hint == "Run: python manage.py createcachetable"

    call_command("createcachetable")
    assert found(["default"]) == []


@pytest.mark.django_db
def test_cache_table_in_another_case(production):
    """A database may spell a table's name its own way."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE FLAGS (cache_key text)")

    assert found(["default"]) == []


def test_cache_table_is_not_looked_for_unasked(production):
    """Without `--database` no database is asked, which pytest-django would not allow."""
    assert found() == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        {"POSTHOG_ENABLED": False},
        {"POSTHOG_CACHE_ALIAS": "default"},
    ],
    ids=["disabled", "another cache"],
)
def test_cache_table_that_nobody_needs(production, change):
    """What is not used needs no table."""
    production.DEBUG = True
    for name, value in change.items():
        setattr(production, name, value)

    assert found(["default"]) == []


DATABASES = """
DATABASES = {
    name: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{name}.sqlite3"}
    for name in ("default", "flags")
}
"""
ROUTED = f"{ENABLED}{DATABASES}DATABASE_ROUTERS = ['routers.CacheRouter']\n"
ROUTERS = """
class CacheRouter:
    def db_for_read(self, model, **hints):
        return "flags" if model._meta.app_label == "django_cache" else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return ALLOWED if app_label == "django_cache" else db == "default"
"""


def test_cache_table_in_a_database_of_its_own(tmp_path):
    """Where a router sends the table elsewhere, it is looked for there, and made there."""
    project = Project(tmp_path, ROUTED, routers=f'ALLOWED = "flags"{ROUTERS}')

    assert project.check(["default"]) == []
    ((id_, _, hint),) = project.check(["default", "flags"])
    assert (id_, hint) == (
        ids.NO_CACHE_TABLE,
        "Run: python manage.py createcachetable --database flags",
    )

    project.manage("createcachetable", "--database", "flags")
    assert project.check(["default", "flags"]) == []


def test_cache_table_that_a_router_does_not_allow(tmp_path):
    """A command that would do nothing is not all that is needed."""
    project = Project(tmp_path, ROUTED, routers=f"ALLOWED = False{ROUTERS}")

    ((_, _, hint),) = project.check(["flags"])
    assert hint.startswith("Let the router's allow_migrate have django_cache in 'flags'. Run:")


@pytest.mark.parametrize(
    "router",
    ["raise RuntimeError", "return 'nowhere'"],
    ids=["raises", "names no database"],
)
def test_cache_table_behind_a_broken_router(tmp_path, router):
    """A router that fails is no reason for a check to fail."""
    broken = f"class CacheRouter:\n    def db_for_write(self, model, **hints):\n        {router}\n"

    assert Project(tmp_path, ROUTED, routers=broken).check(["default", "flags"]) == []


def test_cache_table_in_a_database_that_is_away(tmp_path):
    """A database that cannot be asked is not asked for its tables twice, nor held for empty."""
    away = '{"ENGINE": "django.db.backends.sqlite3", "NAME": "no/such/folder/db.sqlite3"}'
    project = Project(tmp_path, f'{ENABLED}DATABASES = {{"default": {away}}}')

    assert project.check(["default"]) == []


def test_first_migrate(tmp_path):
    """The first `migrate` does its work, and says what is missing until it is there."""
    users = "INSTALLED_APPS += ['django.contrib.auth', 'django.contrib.contenttypes']\n"
    project = Project(tmp_path, f"{ENABLED}{DATABASES}{users}")

    first = project.manage("migrate")
    assert first.count(ids.NO_CACHE_TABLE) == 1
    assert "python manage.py createcachetable" in first
    assert "Applying auth.0001_initial... OK" in first

    project.manage("createcachetable")
    assert ids.NO_CACHE_TABLE not in project.manage("migrate")
