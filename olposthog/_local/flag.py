"""A compiled flag: what decides its value for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from olposthog.undecided import Undecided, UndecidedReason

from .bucketing import holdout_share_of, share_of
from .conditions import Condition, Properties
from .context import Context

NO_DEVICE_ID = Undecided(
    UndecidedReason.MISSING_DEVICE_ID, "it is bucketed by device, and there is no device id"
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant and the end of the bucketing numbers that it is for."""

    key: str
    end: float


@dataclass(frozen=True, slots=True)
class Holdout:
    """The share of people who are kept out of a flag."""

    share: float
    value: str
    """What the flag's value is for them."""


@dataclass(frozen=True, slots=True)
class CompiledFlag:
    """A flag that local evaluation can decide, unless something is missing for a person."""

    key: str
    group_type: str | None
    """The group type that the flag is about; None for people."""
    is_by_device: bool
    needs_enrollment: bool
    holdout: Holdout | None
    conditions: tuple[Condition, ...]
    variants: tuple[Variant, ...]
    exits_early: bool
    """Whether a person whom a rollout excludes is not looked at by later conditions."""
    depth: int
    """How many flags, cohorts and property groups are nested in it, itself included."""

    def evaluate(self, context: Context) -> bool | str | Undecided:
        """Return the value for a person, or why it is undecided."""
        target = self._target(context)
        if target is None:
            return False
        if isinstance(target, Undecided):
            return target
        bucketing_id, properties = target
        if self.needs_enrollment:
            return self._is_enrolled(properties)
        if self.holdout and (
            self.holdout.share >= 1 or holdout_share_of(bucketing_id) <= self.holdout.share
        ):
            return self.holdout.value
        return self._match(context, bucketing_id, properties)

    def _target(self, context: Context) -> tuple[str | int, Properties] | Undecided | None:
        """Return the id and the properties that the flag is about; None without the group."""
        if self.group_type is not None:
            return _group(self.group_type, context)
        if not self.is_by_device:
            return context.distinct_id, context.properties
        return (context.device_id, context.properties) if context.device_id else NO_DEVICE_ID

    def _is_enrolled(self, properties: Properties) -> bool | Undecided:
        name = f"$feature_enrollment/{self.key}"
        if name not in properties:
            return Undecided(UndecidedReason.MISSING_PROPERTY, f"it needs the property {name!r}")
        return properties[name] is True or properties[name] == "true"

    def _match(
        self, context: Context, bucketing_id: str | int, properties: Properties
    ) -> bool | str | Undecided:
        undecided: Undecided | None = None
        value: bool | str = False
        possible: set[bool | str] = set()  # what the undecided conditions may lead to
        for condition in self.conditions:
            target = (
                _group(condition.group_type, context)
                if condition.group_type is not None
                else (bucketing_id, properties)
            )
            if target is None:
                continue
            result = condition.matches(context, target[1])
            if result is False:
                continue
            outcomes = set(self._outcomes(condition, target[0]))
            if isinstance(result, Undecided):
                undecided = undecided or result
                possible |= outcomes
            elif outcomes:
                (value,) = outcomes
                break
        return undecided if undecided and possible - {value} else value

    def _outcomes(self, condition: Condition, bucketing_id: str | int) -> Iterator[bool | str]:
        """Yield the value that the flag has if `condition` matches; nothing if it goes on."""
        if condition.includes(self.key, bucketing_id):
            yield condition.variant or self._variant(bucketing_id) or True
        elif self.exits_early:
            yield False

    def _variant(self, bucketing_id: str | int) -> str | None:
        if not self.variants:
            return None
        share = share_of(self.key, bucketing_id, "variant")
        return next((one.key for one in self.variants if share < one.end), None)


def _group(kind: str, context: Context) -> tuple[str | int, Properties] | None:
    if kind not in context.groups:
        return None
    return context.groups[kind], context.group_properties[kind]
