"""The load benchmark: its arithmetic, and that its parts fit. Nothing here is timed."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cases, peers, report, web
from benchmarks.outage import view
from benchmarks.outage.documents import BEGIN, END, PAGE, with_figures
from benchmarks.outage.figures import by_bin, by_phase, lateness, percentile, times_healthy
from benchmarks.outage.people import cookie_ids, visits
from benchmarks.outage.posthog import Noted, flags
from benchmarks.outage.results import NO_ANSWER, Outcome, Side
from benchmarks.outage.scenario import FULL, QUICK, Scenario
from benchmarks.outage.schedule import at_a_steady_rate
from benchmarks.outage.table import comparison, punctuality, table
from benchmarks.project import Package
from olposthog.conf import Settings
from olposthog.identity import ANONYMOUS_COOKIE_SALT
from tests.posthog_faults import Status
from tests.posthog_server import PostHogServer

SCENARIO = Scenario(phase_seconds=10, warm_up_seconds=5, rate=2, trip_threshold_seconds=2)


def side(outcomes: list[Outcome], calls: list[float] | None = None) -> Side:
    lines = {phase.name: number for number, phase in enumerate(SCENARIO.phases)}
    return Side(Package.OURS, outcomes, calls or [], lines)


def answered(due: float, seconds: float, status: int = 200) -> Outcome:
    return Outcome(due=due, seconds=seconds, status=status, late=0)


# Percentiles


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (1, 1), (1.1, 2), (50, 50), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_a_value_that_was_measured(percent: float, value: int) -> None:
    """Of 1 to 100, in any order, the n-th percentile is n; nothing is made up between two."""
    assert percentile([*range(100, 50, -1), *range(1, 51)], percent) == value


def test_percentile_of_nothing_is_no_number() -> None:
    """A phase without requests has no latency, and is not shown as a quick one."""
    assert math.isnan(percentile([], 99))


# The schedule


class Time:
    """A clock that moves when somebody sleeps, and as told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.oversleeps = 0.0
        """By how much the next sleep is too long."""

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)  # whoever was started, starts
        if seconds:
            self.now += seconds + self.oversleeps
            self.oversleeps = 0.0


def load(time: Time, send: Callable[[int], int], requests: int) -> list[Outcome]:
    """Send ten a second from the moment 101 on; the measured time begins at 101.2."""

    async def sender(number: int) -> int:
        return send(number)

    return asyncio.run(
        at_a_steady_rate(
            sender,
            requests=requests,
            rate=10,
            begins=101,
            zero=101.2,
            clock=time.clock,
            sleep=time.sleep,
        )
    )


def test_requests_leave_on_schedule() -> None:
    """The n-th is sent n tenths of a second after the first."""
    time, sent = Time(), []

    def send(number: int) -> int:
        sent.append((number, round(time.now, 6)))
        return 200

    outcomes = load(time, send, 4)

    assert sent == [(0, 101), (1, 101.1), (2, 101.2), (3, 101.3)]
    assert [round(outcome.due, 6) for outcome in outcomes] == [-0.2, -0.1, 0, 0.1]
    assert [outcome.status for outcome in outcomes] == [200] * 4


def test_slow_answers_hold_nothing_up() -> None:
    """All requests leave while the first is still unanswered."""
    time, sent = Time(), []

    async def run() -> list[Outcome]:
        all_sent = asyncio.Event()

        async def send(number: int) -> int:
            sent.append(round(time.now, 6))
            if number == 2:
                all_sent.set()
            await all_sent.wait()
            return 200

        return await at_a_steady_rate(
            send, requests=3, rate=10, begins=101, zero=101, clock=time.clock, sleep=time.sleep
        )

    outcomes = asyncio.run(run())

    assert sent == [101, 101.1, 101.2]
    assert [round(outcome.seconds, 6) for outcome in outcomes] == [0.2, 0.1, 0]


def test_time_counts_from_when_a_request_was_due() -> None:
    """A generator that overslept sends at once what is overdue, and counts the delay."""
    time = Time()
    time.oversleeps = 0.25

    outcomes = load(time, lambda number: 200, 4)

    assert [round(outcome.late, 6) for outcome in outcomes] == [0.25, 0.15, 0.05, 0]
    assert [round(outcome.seconds, 6) for outcome in outcomes] == [0.25, 0.15, 0.05, 0]


# Phases


def test_phases_follow_each_other() -> None:
    """Each moment belongs to one phase; the warm-up and what is after the end to none."""
    names = [getattr(SCENARIO.phase_at(moment), "name", None) for moment in (-0.1, 0, 9.9, 10)]
    assert names == [None, "healthy", "healthy", "hang"]
    assert [phase.name for phase in SCENARIO.phases] == ["healthy", "hang", "500s", "healthy again"]
    assert SCENARIO.phase_at(SCENARIO.seconds) is None
    assert SCENARIO.requests == 90


def test_figures_belong_to_the_phase_in_which_requests_were_due() -> None:
    """An answer that comes in the next phase is still one of its own phase."""
    outcomes = [
        answered(-1, 9),
        answered(1, 0.2),
        answered(9, 0.1),
        answered(10, 5),
        answered(11, 8, NO_ANSWER),
        answered(13, 0.3, 503),
    ]
    healthy, hang, *_ = by_phase(side(outcomes, [-1, 0.5, 10, 19, 40]), SCENARIO)

    assert (healthy.requests, healthy.errors, healthy.p50, healthy.p99) == (2, 0, 0.1, 0.2)
    assert (hang.requests, hang.errors, hang.p50, hang.p99) == (3, 2, 5, 8)
    assert (healthy.settled_p99, hang.settled_p99) == (0.1, 0.3)  # after three seconds of each
    assert (healthy.calls, hang.calls) == (1, 2)
    assert (healthy.log_lines, hang.log_lines) == (0, 1)


def test_outage_is_compared_with_the_healthy_phase() -> None:
    """What counts is the p99 after the first seconds of either."""
    figures = by_phase(side([answered(5, 0.2), answered(11, 9), answered(15, 0.3)]), SCENARIO)
    assert times_healthy(figures)["hang"] == pytest.approx(1.5)
    assert "hang 1.5x" in comparison(figures)


def test_bins_are_half_seconds() -> None:
    """The chart shows each half second's percentiles, and calls as a rate."""
    bins = by_bin(side([answered(-0.1, 9), answered(0.6, 0.2)], [0.5, 0.9, 1]), SCENARIO)

    assert len(bins) == 80
    assert math.isnan(bins[0].p99)
    assert (bins[1].middle, bins[1].p99, bins[1].calls_per_second) == (0.75, 0.2, 4)
    assert bins[2].calls_per_second == 2


def test_lateness_is_that_of_all_but_a_hundredth() -> None:
    """It tells a busy machine from a slow server."""
    outcomes = [Outcome(due=0, seconds=1, status=200, late=late / 1000) for late in range(100)]
    assert lateness(side(outcomes)) == 0.098
    assert "too busy" in punctuality(side(outcomes))
    assert "too busy" not in punctuality(side([answered(0, 1)]))


def test_table_shows_both_sides_phase_by_phase() -> None:
    """A line for each side in each phase, in the order of the phases."""
    theirs = Side(Package.PREDECESSOR, [], [], side([]).log_lines)
    lines = table([by_phase(one, SCENARIO) for one in (theirs, side([]))]).splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["healthy", "predecessor"],
        ["healthy", "olposthog"],
        ["hang", "predecessor"],
        ["hang", "olposthog"],
    ]


# Who comes, and to what


def test_both_sides_have_the_same_visitors() -> None:
    """The same seed brings the same people in the same order, and another one others."""
    cookies = [f"cookie-{number}" for number in range(100)]
    first, second = visits(FULL, cookies), visits(FULL, cookies)

    assert first == second
    assert len(first) == FULL.requests
    assert 0.08 < first.count(None) / len(first) < 0.12
    assert set(first) == {None, *cookies}  # all of them come, and come again
    assert cookie_ids(FULL) == cookie_ids(FULL)
    assert len(set(cookie_ids(FULL))) == 50


def test_view_of_the_predecessor_knows_the_same_people() -> None:
    """It reads and writes the cookie that the REST API does."""
    assert (Settings().anonymous_cookie, ANONYMOUS_COOKIE_SALT) == (view.COOKIE, view.SALT)


def test_posthog_notes_calls_and_misbehaves(posthog: PostHogServer) -> None:
    """Only evaluations are noted, and the fault inside answers."""
    import requests

    arrivals: list[float] = []
    posthog.flags = flags(5)
    posthog.flags_fault = Noted(Status(500), arrivals)
    address = f"{posthog.url}/flags/?v=4"

    assert requests.post(address, json={"distinct_id": "ann"}, timeout=10).status_code == 500
    assert requests.get(address, timeout=10).status_code == 500
    assert len(arrivals) == 1


@pytest.mark.parametrize("scenario", [FULL, QUICK], ids=["full", "quick"])
def test_phase_is_long_enough(scenario: Scenario) -> None:
    """It has room for a trip, a cooldown and a probe."""
    assert scenario.request_timeout_seconds < scenario.trip_threshold_seconds
    assert scenario.trip_threshold_seconds + scenario.cooldown_seconds < scenario.phase_seconds
    assert scenario.settled_seconds < scenario.phase_seconds


def test_quick_run_stays_under_a_minute() -> None:
    """Both sides together leave some seconds for starting."""
    assert 2 * (QUICK.warm_up_seconds + QUICK.seconds) <= 44


# What is printed and written


def test_figures_go_between_the_markers() -> None:
    """The rest of the page stays as it is, and so does a page that was written twice."""
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_figures(page, "new")
    assert once == f"before\n{BEGIN}\n```\nnew\n```\n{END}\nafter\n"
    assert with_figures(once, "new") == once
    assert with_figures(PAGE.read_text(), "new")  # it has markers
    with pytest.raises(ValueError, match="outage: begin"):
        with_figures("no markers", "new")


def test_command_line_chooses_the_scenario() -> None:
    """`--quick` is another scenario, and writes nothing."""
    from benchmarks.outage.__main__ import parser, report, scenario_of

    options = parser()
    assert scenario_of(options.parse_args([])) == FULL
    assert scenario_of(options.parse_args(["--quick"])) == QUICK
    assert scenario_of(options.parse_args(["--posthog-ms", "0"])).posthog_seconds == 0
    with pytest.raises(SystemExit):
        options.parse_args(["--quick", "--write"])
    assert SCENARIO.describe() in report([side([]), side([])], SCENARIO)


def test_chart_is_the_same_each_time(tmp_path: Path) -> None:
    """The same figures give the same bytes, and nothing in them says when."""
    from benchmarks.outage.chart import draw

    files = [tmp_path / "one.svg", tmp_path / "other.svg"]
    for file in files:
        draw([side([answered(5, 0.2), answered(11, 9)], [1, 2])], SCENARIO, file)

    one, other = (file.read_bytes() for file in files)
    assert one == other
    assert b"<dc:date>" not in one


# The comparison with others: each case runs, in as few rounds as there can be


@pytest.mark.parametrize(
    "case", [case for _, case in cases.CASES], ids=[name for name, _ in cases.CASES]
)
def test_each_row_is_measured(case: cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side gives a number. Which one is of no interest here."""
    monkeypatch.setattr(cases, "PEOPLE", 20)
    monkeypatch.setattr(web, "REQUESTS", 2)
    with PostHogServer() as posthog:
        rows = list(case(posthog, 2))

    assert rows
    for row in rows:
        assert row.ours > 0
        assert row.theirs is None or row.theirs > 0 or row.unit is report.Unit.THREADS
    assert len(report.table(rows).splitlines()) == 1 + len(rows)


@pytest.mark.parametrize("peer", [one for one in peers.Peer if one.is_installed])
def test_peers_have_equal_flags(peer: peers.Peer, tmp_path: Path) -> None:
    """The flag is on for half of the people, and so are all of them together."""
    with cases.evaluators(peer) as (process,):
        assert process.do(peers.shares) == pytest.approx((0.5, 0.5), abs=0.06)


def test_group_of_the_peers_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A table without all of its peers is not printed."""
    from benchmarks import __main__

    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        __main__.main()

    assert "LaunchDarkly and GrowthBook must be installed" in capsys.readouterr().err
