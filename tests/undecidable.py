"""Flag definitions that local evaluation cannot decide, and the reasons it gives."""

from __future__ import annotations

from tests.test_definitions import flag, where

COHORT = {"key": "id", "value": 12, "operator": "in", "type": "cohort"}
PLAN = {"key": "plan", "value": "pro", "operator": "exact", "type": "person"}

SOUND = flag("sound")
CONTINUOUS = flag("continuous", ensure_experience_continuity=True)
STATIC = flag("static", where(COHORT))
MALFORMED = {"key": "malformed", "active": True, "filters": None}
BY_PLAN = flag("by-plan", where(PLAN))
"""Decided for people whose plan is known."""

REASONS = {
    "continuous": "it persists across authentication steps",
    "malformed": 'its definition is malformed: "filters" must be a JSON object',
    "static": "it needs the cohort 12, which the definitions do not contain",
}
FAULT = "flags[3], 'malformed': \"filters\" must be a JSON object"
DEFINITIONS = {"flags": [SOUND, CONTINUOUS, STATIC, MALFORMED, BY_PLAN]}
