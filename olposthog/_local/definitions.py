"""Flag definitions as PostHog's definitions endpoint sends them, accepted flag by flag.

A flag that cannot be read is undecided and costs no other flag anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from olposthog._utils.log_lines import printable
from olposthog._utils.portable_json import is_portable, is_unicode, read
from olposthog.snapshot import Runtime

RUNTIMES = (None, "all", *(runtime.value for runtime in Runtime))
MATCHING_VERSIONS = (1, 2)
"""The versions of PostHog's rules for comparing properties that local evaluation knows."""
VERSION_2_FIELDS = ("rules", "return_type", "default_value")
MAX_FAULTS_PER_LINE = 10
MAX_SHOWN_KEY = 100
"""How many characters of a key a fault shows."""


class DefinitionsError(ValueError):
    """Definitions that cannot be used. The text says why and where, on one printable line."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


@dataclass(frozen=True, slots=True)
class FlagDefinition:
    """One flag, as far as it could be read."""

    key: str
    id: int | None
    version: int | None
    runtime: str
    """`all`, `server` or `client`."""
    has_experiment: bool | None
    """Whether an experiment uses the flag; None if PostHog did not tell."""
    data: Mapping[str, Any]
    """The definition in PostHog's format."""
    fault: str
    """Why the definition is malformed; empty if it is not."""

    @property
    def condition_sets(self) -> Sequence[Mapping[str, Any]]:
        """The condition sets in PostHog's format; none where the format is unknown."""
        if self.fault or unknown_format(self.data["filters"]):
            return ()
        return self.data["filters"].get("groups") or ()


@dataclass(frozen=True, eq=False)
class Definitions:
    """One version of a project's flag definitions."""

    document: Mapping[str, Any]
    """The whole document, as it was received."""
    flags: Mapping[str, FlagDefinition]
    """The flags by key, malformed ones included."""
    cohorts: Mapping[str, Any]
    """Cohorts by id: property groups in PostHog's format."""
    group_types: Mapping[str, str]
    """Group types by index, as in `{"0": "company"}`."""
    matching_version: int | None
    """The version of PostHog's rules for comparing properties; None for an unknown one."""
    minimal_events: bool
    """Whether PostHog asks for minimised `$feature_flag_called` events."""
    faults: tuple[str, ...]
    """What is malformed, each with its place."""

    def suits(self, key: str, runtime: Runtime) -> bool:
        """Return whether `key` may be used in `runtime`. An unknown key may."""
        flag = self.flags.get(key)
        return flag is None or flag.runtime in ("all", runtime.value)

    @property
    def summary_of_faults(self) -> str:
        """What is malformed, in one line of bounded length; empty if nothing is."""
        if not self.faults:
            return ""
        shown = "; ".join(self.faults[:MAX_FAULTS_PER_LINE])
        more = len(self.faults) - MAX_FAULTS_PER_LINE
        return f"{shown}; and {more} more" if more > 0 else shown


def parse(text: str | bytes, origin: str) -> Definitions:
    """Return the definitions in `text`, a JSON document.

    Raise `DefinitionsError`, which names `origin`, if no flag can be read: the text is not JSON,
    or has no list of flags. Whatever else is malformed is listed in `faults`.
    """
    try:
        document = read(text)
    except ValueError as error:
        raise DefinitionsError(f"{origin} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("flags"), list):
        raise DefinitionsError(f'{origin} must be a JSON object with a list under "flags".')
    flags, faults = _read_flags(document["flags"])
    matching_version = _or(document.get("property_matching_version"), 1)
    if isinstance(matching_version, bool) or matching_version not in MATCHING_VERSIONS:
        faults.append('"property_matching_version" is unknown')
        matching_version = None
    return Definitions(
        document=document,
        flags=flags,
        cohorts=_read_object(document, "cohorts", faults),
        group_types=_read_object(document, "group_type_mapping", faults),
        matching_version=matching_version,
        minimal_events=document.get("minimal_flag_called_events") is True,
        faults=tuple(faults),
    )


def parse_strictly(text: str | bytes, origin: str) -> Definitions:
    """Return the definitions in `text`. Raise `DefinitionsError` for any fault in them."""
    definitions = parse(text, origin)
    if definitions.faults:
        raise DefinitionsError(f"{origin}: {definitions.summary_of_faults}.")
    return definitions


def _read_object(document: Mapping[str, Any], name: str, faults: list[str]) -> Mapping[str, Any]:
    value = document.get(name, {})
    if isinstance(value, dict):
        return value
    faults.append(f'"{name}" must be a JSON object')
    return {}


def _read_flags(flags: list[Any]) -> tuple[dict[str, FlagDefinition], list[str]]:
    found: dict[str, FlagDefinition] = {}
    faults: list[str] = []
    for index, flag in enumerate(flags):
        if not _has_key(flag):
            faults.append(f'flags[{index}]: it has no "key"')
            continue
        if _is_deleted(flag):
            continue
        key = flag["key"]
        if key in found:
            found[key] = _definition(
                {"key": key, "evaluation_runtime": Runtime.SERVER.value},
                fault="its key was there before",
            )
        else:
            found[key] = _definition(flag, fault=next(_faults(flag), ""))
        if found[key].fault:
            faults.append(f"flags[{index}], {shown(key)}: {found[key].fault}")
    return found, faults


def _definition(flag: Mapping[str, Any], fault: str) -> FlagDefinition:
    return FlagDefinition(
        key=flag["key"],
        id=_int_or_none(flag.get("id")),
        version=_int_or_none(flag.get("version")),
        runtime=_runtime(flag),
        has_experiment=_bool_or_none(flag.get("has_experiment")),
        data=flag,
        fault=fault,
    )


def shown(key: str) -> str:
    """Return a key as a message shows it: escaped, and cut to `MAX_SHOWN_KEY` characters."""
    return repr(key[:MAX_SHOWN_KEY])


def unknown_format(filters: Mapping[str, Any]) -> str:
    """Return why `filters` are in a format that local evaluation does not know, else nothing."""
    version = filters.get("version")
    if isinstance(version, bool) or version not in (None, 1):
        number = version if isinstance(version, int | float | str) else type(version).__name__
        return f"its configuration has version {str(number)[:20]!r}"
    if any(filters.get(name) is not None for name in VERSION_2_FIELDS):
        return "its configuration has fields of version 2"
    return ""


def _has_key(flag: Any) -> bool:
    key = flag.get("key") if isinstance(flag, dict) else None
    return isinstance(key, str) and key != "" and is_unicode(key)


def _is_deleted(flag: Mapping[str, Any]) -> bool:
    return flag.get("deleted") is True


def _runtime(flag: Mapping[str, Any]) -> str:
    """Return the runtime of a flag. One that cannot be read keeps the flag from browsers."""
    runtime = flag.get("evaluation_runtime")
    return (runtime or "all") if runtime in RUNTIMES else Runtime.SERVER.value


def _faults(flag: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is malformed in a flag, the outermost fault first."""
    if not isinstance(flag.get("active", False), bool):
        yield '"active" must be true or false'
    if flag.get("evaluation_runtime") not in RUNTIMES:
        yield '"evaluation_runtime" must be "all", "server", "client" or null'
    if not isinstance(flag.get("ensure_experience_continuity"), bool | None):
        yield '"ensure_experience_continuity" must be true, false or null'
    if not isinstance(flag.get("bucketing_identifier"), str | None):
        yield '"bucketing_identifier" must be text or null'
    filters = flag.get("filters")
    if not isinstance(filters, dict):
        yield '"filters" must be a JSON object'
        return
    if unknown_format(filters):  # which may use the same names for other things
        return
    if not is_portable(filters):
        yield '"filters" holds a number that is not finite, or is nested too deeply'
    if flag.get("active") and not isinstance(filters.get("groups"), list):
        yield '"groups" must be a list'
    if not isinstance(filters.get("feature_enrollment"), bool | None):
        yield '"feature_enrollment" must be true, false or null'
    yield from _faults_of_filters(filters)


def _faults_of_filters(filters: Mapping[str, Any]) -> Iterator[str]:
    multivariate = _or(filters.get("multivariate"), {})
    if not isinstance(multivariate, dict) or not isinstance(_or(filters.get("payloads"), {}), dict):
        yield '"multivariate" and "payloads" must be JSON objects'
        return
    groups = _or(filters.get("groups"), [])
    variants = _or(multivariate.get("variants"), [])
    if not _are_objects(groups) or not _are_objects(variants):
        yield '"groups" and "variants" must be lists of JSON objects'
        return
    if not all(_has_key(one) for one in variants):
        yield 'a variant has no "key"'
    if not all(_is_number(one.get("rollout_percentage")) for one in variants):
        yield 'the "rollout_percentage" of a variant is not a number'
    for group in groups:
        yield from _faults_of_group(group)
    yield from _faults_of_holdout(_or(filters.get("holdout"), {}))
    if not isinstance(filters.get("early_exit"), bool | None):
        yield '"early_exit" must be true, false or null'
    index = filters.get("aggregation_group_type_index")
    if index is not None and _int_or_none(index) is None:
        yield '"aggregation_group_type_index" must be an integer or null'


def _faults_of_holdout(holdout: Any) -> Iterator[str]:
    if not isinstance(holdout, dict):
        yield '"holdout" must be a JSON object'
        return
    if not _is_number(_or(holdout.get("exclusion_percentage"), 0)):
        yield 'the "exclusion_percentage" of the "holdout" is not a number'
    if holdout.get("id") is not None and _int_or_none(holdout["id"]) is None:
        yield 'the "id" of the "holdout" must be an integer or null'


def _faults_of_group(group: Mapping[str, Any]) -> Iterator[str]:
    properties = _or(group.get("properties"), [])
    if not _are_objects(properties):
        yield '"properties" in the groups must be lists of JSON objects'
        return
    if not all(isinstance(one.get("key"), str) for one in properties):
        yield 'a property in the groups has no "key"'
    if not _is_number(_or(group.get("rollout_percentage"), 100)):
        yield 'the "rollout_percentage" of a group is not a number'
    if not isinstance(group.get("variant"), str | None):
        yield 'the "variant" of a group must be text or null'
    index = group.get("aggregation_group_type_index")
    if index is not None and _int_or_none(index) is None:
        yield 'the "aggregation_group_type_index" of a group must be an integer or null'


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _int_or_none(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _bool_or_none(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
