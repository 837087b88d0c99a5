"""Evaluation as a function of the definitions and the person, and of nothing else."""

from __future__ import annotations

from hypothesis import given

from olposthog._local.context import Context
from olposthog.undecided import Undecided

from .documents import (
    FLAGS,
    SOME,
    Draw,
    Person,
    depending_on,
    evaluate,
    evaluator_of,
    outcomes,
    seeds,
)


def context_of(person: Person) -> Context:
    return Context.of(
        person.distinct_id,
        person.device_id,
        person.properties,
        person.groups,
        person.group_properties,
    )


@SOME
@given(seeds)
def test_same_answer_in_any_order(seed: int) -> None:
    """Flags have the same values one by one, in any order, as all at once, and every time."""
    draw = Draw(seed)
    evaluator, person = evaluator_of(draw.document()), draw.person()
    first, again = evaluate(evaluator, person), evaluate(evaluator, person)
    all_at_once = {key: one.value for key, one in first.decisions.items()} | dict(first.undecided)

    assert first.undecided == again.undecided
    assert first.decisions == again.decisions
    assert all_at_once.keys() == set(FLAGS)
    shuffled = draw.sample(FLAGS, len(FLAGS))
    shared = context_of(person)
    assert {key: evaluator.value(key, shared) for key in shuffled} == all_at_once
    assert {key: evaluator.value(key, context_of(person)) for key in FLAGS} == all_at_once


@SOME
@given(seeds)
def test_other_people_leave_no_trace(seed: int) -> None:
    """A person's flags do not depend on for whom the same evaluator was used before."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    used = evaluator_of(document)
    for _ in range(3):
        evaluate(used, draw.person())

    found, expected = evaluate(used, person), evaluate(evaluator_of(document), person)

    assert found.undecided == expected.undecided
    assert found.decisions == expected.decisions


@SOME
@given(seeds)
def test_odd_flag_changes_no_other(seed: int) -> None:
    """Another flag, of whatever kind and wherever it stands, changes no flag of a document."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    before = outcomes(document, person)
    odd = draw.flag("odd", FLAGS)
    place = draw.randint(0, len(FLAGS))

    after = outcomes(
        {**document, "flags": [*document["flags"][:place], odd, *document["flags"][place:]]}, person
    )

    assert after.keys() == {*before, "odd"}
    assert {key: after[key] for key in before} == before


@SOME
@given(seeds)
def test_flag_changes_only_what_depends_on_it(seed: int) -> None:
    """Replacing a flag changes at most that flag and the flags that depend on it."""
    draw = Draw(seed)
    document, person = draw.document(), draw.person()
    place = draw.randrange(len(FLAGS))
    replacement = draw.flag(FLAGS[place], FLAGS[:place])
    before = outcomes(document, person)

    flags = [replacement if one["key"] == FLAGS[place] else one for one in document["flags"]]
    after = outcomes({**document, "flags": flags}, person)

    changed = {key for key in FLAGS if before[key] != after[key]}
    assert changed <= depending_on(document, FLAGS[place])


@SOME
@given(seeds)
def test_more_properties_never_change_a_decision(seed: int) -> None:
    """A flag that is decided without a property keeps its value whatever the property is."""
    draw = Draw(seed)
    evaluator, person = evaluator_of(draw.document()), draw.person()
    missing = {key: one for key, one in draw.properties().items() if key not in person.properties}
    fuller = Person(
        person.distinct_id,
        person.device_id,
        {**person.properties, **missing},
        person.groups,
        person.group_properties,
    )

    before, after = evaluate(evaluator, person), evaluate(evaluator, fuller)

    for key, one in before.decisions.items():
        assert after.decisions[key] == one


def test_random_documents_use_cohorts() -> None:
    """The random cohorts are decided in both ways, so that what depends on them is tested."""
    found: set[object] = set()
    for seed in range(60):
        draw = Draw(seed)
        evaluator, context = evaluator_of(draw.document()), context_of(draw.person())
        for key in FLAGS:
            evaluator.value(key, context)
        found |= {
            type(one) if isinstance(one, Undecided) else one for one in context.cohorts.values()
        }

    assert found == {True, False, Undecided}
