"""A compiled flag: what decides its value for a person."""

from __future__ import annotations

from dataclasses import dataclass

from olposthog.undecided import Undecided, UndecidedReason

from .bucketing import HOLDOUTS, Bucketing
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
    bucketing: Bucketing
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
            self.holdout.share >= 1 or HOLDOUTS.share_of(bucketing_id) <= self.holdout.share
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
        possible: set[bool | str] = set()  # what the undecided conditions may lead to
        value: bool | str = False
        for condition in self.conditions:
            if condition.group_type is None:
                id_, own_properties = bucketing_id, properties
            elif target := _group(condition.group_type, context):
                id_, own_properties = target
            else:
                continue
            result = condition.matches(context, own_properties)
            if result is False:
                continue
            is_included = condition.includes(self.bucketing, id_)
            if not is_included and not self.exits_early:
                continue
            value = is_included and (condition.variant or self._variant(id_) or True)
            if result is True:
                break
            undecided = undecided or result
            possible.add(value)
            value = False
        return undecided if undecided and possible - {value} else value

    def _variant(self, bucketing_id: str | int) -> str | None:
        if not self.variants:
            return None
        share = self.bucketing.share_of(bucketing_id, "variant")
        return next((one.key for one in self.variants if share < one.end), None)


def _group(kind: str, context: Context) -> tuple[str | int, Properties] | None:
    if kind not in context.groups:
        return None
    return context.groups[kind], context.group_properties[kind]
