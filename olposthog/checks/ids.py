"""The ids of all messages. A number keeps its meaning for ever, so that sites can silence it."""

from __future__ import annotations

ERRORS = {
    "POSTHOG_ENABLED": "olposthog.E001",
    "POSTHOG_PROJECT_API_KEY": "olposthog.E002",
    "POSTHOG_PERSONAL_API_KEY": "olposthog.E003",
    "POSTHOG_API_HOST": "olposthog.E004",
    "POSTHOG_FEATURE_FLAG_REQUEST_TIMEOUT_MS": "olposthog.E005",
    "POSTHOG_MAX_RETRIES": "olposthog.E006",
    "POSTHOG_POLL_INTERVAL": "olposthog.E007",
    "POSTHOG_CIRCUIT_BREAKER_TRIP_THRESHOLD_SECONDS": "olposthog.E008",
    "POSTHOG_CIRCUIT_BREAKER_COOLDOWN_SECONDS": "olposthog.E009",
    "POSTHOG_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "olposthog.E010",
    "POSTHOG_CACHE_ALIAS": "olposthog.E011",
    "POSTHOG_LOCAL_CACHE_SECONDS": "olposthog.E012",
    "POSTHOG_LOCAL_CACHE_MAX_ENTRIES": "olposthog.E013",
    "POSTHOG_FLAG_DEFINITIONS_FILE": "olposthog.E014",
    "POSTHOG_SEND_FEATURE_FLAG_EVENTS": "olposthog.E015",
    "POSTHOG_API_IDENTITY": "olposthog.E016",
    "POSTHOG_API_FLAGS": "olposthog.E017",
    "POSTHOG_API_ANONYMOUS_COOKIE": "olposthog.E018",
    "POSTHOG_API_TRUST_BROWSER_ID": "olposthog.E019",
    "HOSTNAME": "olposthog.E020",
    "ENVIRONMENT": "olposthog.E021",
    "FEATURES": "olposthog.E022",
    "POSTHOG_STALE_IF_ERROR_SECONDS": "olposthog.E023",
    "POSTHOG_STALE_WHILE_REVALIDATE_SECONDS": "olposthog.E024",
    "POSTHOG_API_CONTEXT_PROPERTIES": "olposthog.E025",
    "POSTHOG_API_IDENTITY_HEADERS": "olposthog.E026",
}
"""The id of the error for each setting whose value cannot be used."""

MISSING = {
    "POSTHOG_PROJECT_API_KEY": "olposthog.E101",
    "POSTHOG_API_HOST": "olposthog.E102",
}
"""The id of the error for each setting that POSTHOG_ENABLED requires."""

FORGEABLE_USER_ID = "olposthog.E100"
BAD_DEFINITIONS_FILE = "olposthog.E103"
BROKEN_CACHE = "olposthog.E104"
BAD_CACHE_TIMEOUT = "olposthog.E105"
PROJECT_KEY_AS_PERSONAL_KEY = "olposthog.E106"
COOKIE_NAME_TAKEN = "olposthog.E107"

NO_HOSTNAME = "olposthog.W001"
NO_ENVIRONMENT = "olposthog.W002"
NO_SHARED_CACHE = "olposthog.W003"
SMALL_CACHE = "olposthog.W004"
EVERY_FLAG_VISIBLE = "olposthog.W005"
TEXT_FOR_SWITCH = "olposthog.W006"
CACHE_NOT_SHARED = "olposthog.W007"
FILE_CACHE = "olposthog.W008"
NO_CACHE_TABLE = "olposthog.W009"
NEVER_FRESH = "olposthog.W010"
NEVER_RENEWED = "olposthog.W011"
KEPT_TOO_LONG = "olposthog.W012"
REDIS_WITHOUT_TIMEOUT = "olposthog.W013"
PREDECESSOR_IMPORTED = "olposthog.W014"
MISSPELT_SETTING = "olposthog.W015"
FILE_BESIDE_POSTHOG = "olposthog.W016"
UNENCRYPTED = "olposthog.W017"
NO_API_ADDRESS = "olposthog.W018"
SHORT_REQUEST_TIMEOUT = "olposthog.W019"
LONG_WAIT = "olposthog.W020"
LONG_COOLDOWN = "olposthog.W021"
SHORT_POLL_INTERVAL = "olposthog.W022"
NO_FLAG_VISIBLE = "olposthog.W023"
PATTERN_OF_NO_FLAG = "olposthog.W024"
COOKIE_DROPPED = "olposthog.W025"
CACHED_BEFORE_IDENTITY = "olposthog.W026"
FAILURES_HIDDEN = "olposthog.W027"
IDENTITY_HEADER_MISSING = "olposthog.W028"
POSTGRESQL_WITHOUT_TIMEOUT = "olposthog.W029"
CACHE_TABLE_SHARED = "olposthog.W030"
