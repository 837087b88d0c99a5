"""A compiled flag: what decides its value for a person."""

from __future__ import annotations

from dataclasses import dataclass

from olposthog.undecided import Undecided, UndecidedReason

from .bucketing import holdout_share_of, share_of
from .conditions import Condition
from .context import Context, Target

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

    def includes(self, target: Target) -> bool:
        """Return whether a person or a group is kept out."""
        return self.share >= 1 or holdout_share_of(target[0]) <= self.share


@dataclass(frozen=True, slots=True)
class Constant:
    """A flag that has one outcome for all: it is disabled, or cannot be decided locally."""

    outcome: bool | Undecided
    depth: int = 0

    def evaluate(self, context: Context) -> bool | Undecided:
        """Return the outcome."""
        return self.outcome


@dataclass(frozen=True, slots=True)
class CompiledFlag:
    """A flag that local evaluation can decide, unless something is missing for a person."""

    key: str
    group_type: str | None
    """The group type that the flag is about; None for people."""
    is_by_device: bool
    """Whether people are bucketed by their device."""
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
        if self.is_by_device:
            target = context.device
            if target is None:
                return NO_DEVICE_ID
        else:
            target = context.targets.get(self.group_type)
            if target is None:
                return False
        if self.needs_enrollment:
            return self._is_enrolled(context, target)
        if self.holdout and self.holdout.includes(target):
            return self.holdout.value
        return self._match(context, target)

    def _is_enrolled(self, context: Context, target: Target) -> bool | Undecided:
        _, properties = target
        name = f"$feature_enrollment/{self.key}"
        if name not in properties:
            if context.has_all_properties:
                return False
            return Undecided(UndecidedReason.MISSING_PROPERTY, f"it needs the property {name!r}")
        return properties[name] is True or properties[name] == "true"

    def _match(self, context: Context, target: Target) -> bool | str | Undecided:
        undecided: Undecided | None = None
        possible: set[bool | str] = set()  # what the undecided conditions may lead to
        value: bool | str = False
        for condition in self.conditions:
            if condition.group_type is None:
                id_, properties = target
            elif condition.group_type in context.targets:
                id_, properties = context.targets[condition.group_type]
            else:
                continue
            result = condition.matches(context, properties)
            if result is False:
                continue
            is_included = condition.rollout >= 1 or share_of(self.key, id_) <= condition.rollout
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
        share = share_of(self.key, bucketing_id, "variant")
        for one in self.variants:
            if share < one.end:
                return one.key
        return None
