"""The parts of the control of load, one by one: queue, budgets, shares, running estimates, decisions."""

from __future__ import annotations

import math
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyndet_builder.repository.load_simulation import control_modules

MODULES = control_modules()
backlog, deciding, gears, load, pace, tenants = (
    MODULES[name] for name in ("backlog", "deciding", "gears", "load", "pace", "tenants")
)


def job(name: object = None, *, arrived: float = 0.0, tenant: str = "", **rest: Any) -> Any:
    made = load.Job(payload=name, arrived=arrived, threshold=rest.pop("threshold", 0.5), tenant=tenant, **rest)
    made.group = tenant
    return made


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def measured(clock: Clock, *, tenants_rules: Any = None, workers: int = 1, bound: int = 1024) -> Any:
    """A control that has measured 10 ms for easy and 20 ms for hard answers."""
    control = load.Load(workers=workers, bound=bound, clock=clock)
    control.configure(tenants=tenants_rules or {})
    for route in (1, 2) * 20:
        one = load.Job(payload=None, arrived=clock.now, threshold=0.0 if route == 2 else 1.0)
        assert control.enter(one) is None
        clock.now += 0.005
        assert control.route(one, 0.5) == route
        clock.now += 0.005 if route == 1 else 0.015
        control.done(one, routes=[route])
    return control


requests = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(1, 4)),  # a request: tenant, priority, images
        st.none(),  # a worker takes one
    ),
    max_size=40,
)


@given(requests, st.integers(1, 20), st.booleans())
def test_the_queue_is_bounded_and_loses_nothing_and_orders_each_tenant_by_priority_and_arrival(
    steps: list[tuple[str, int, int] | None], bound: int, shared: bool
) -> None:
    queue = backlog.Backlog(bound=bound)
    queue.shared = shared
    waiting: list[Any] = []
    for number, step in enumerate(steps):
        if step is None:
            taken = queue.take()
            assert (taken is None) == (not waiting)
            if taken is not None:
                own = [one for one in waiting if one.tenant == taken.tenant]
                assert taken is min(own, key=lambda one: (-one.priority, one.payload))
                waiting.remove(taken)
        else:
            new = job(number, tenant=step[0], priority=step[1], images=step[2])
            own = sum(one.tenant == step[0] for one in waiting)
            room = len(waiting) < bound and (not shared or own < 4 * (bound - len(waiting)))
            assert queue.add(new) == room
            if room:
                waiting.append(new)
        assert len(queue) == len(waiting) <= bound
        assert queue.images == sum(one.images for one in waiting)
    assert len([queue.take() for _ in waiting]) == len(waiting)
    assert queue.take() is None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.randoms())
def test_tenants_that_wait_take_turns(names: list[str], order: random.Random) -> None:
    queue = backlog.Backlog(bound=1000)
    for name in names:
        queue.add(job(tenant=name))
    left, served = Counter(names), Counter[str]()
    while (taken := queue.take()) is not None:
        left[taken.tenant] -= 1
        served[taken.tenant] += 1
        waiting = [served[name] for name in set(names) if left[name]]
        assert not waiting or max(waiting) - min(waiting) <= 1


def test_the_images_ahead_are_those_that_are_taken_before() -> None:
    order = random.Random(7)
    for _ in range(50):
        queue = backlog.Backlog(bound=1000)
        for _ in range(order.randrange(1, 30)):
            queue.add(job(tenant=order.choice("aab"), priority=order.choice([0, 0, 5])))
            if order.random() < 0.3:
                queue.take()
        new = job("new", tenant=order.choice("abc"), priority=order.choice([0, 5]))
        predicted = sum(images for _, images in queue.ahead(new))
        queue.add(new)
        before = 0
        while queue.take() is not new:
            before += 1
        assert abs(predicted - before) <= 1


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 3)), max_size=60), st.floats(0, 20), st.floats(1, 10))
def test_a_budget_never_gives_more_than_its_rate_and_its_burst(
    steps: list[tuple[int, float]], per_s: float, burst: float
) -> None:
    bucket = tenants.Bucket(per_s=per_s, burst=burst, now=0.0)
    now, used, debts = 0.0, 0, 0.0
    for images, pause in steps:
        now += pause
        if bucket.take(images, now):
            used += images
            debts = max(debts, images - burst)
        assert used <= burst + per_s * now + debts + 1e-6
    assert per_s < 1 or bucket.take(1, now + 20)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.floats(0, 1))
def test_a_threshold_lets_at_most_its_share_through_and_no_smaller_one_does(values: list[float], share: float) -> None:
    seen = gears.Difficulties(most=200)
    for value in values:
        seen.add(value)
    seen.refresh()
    recent = values[-200:]
    threshold = seen.threshold_for(share)
    above = sum(value > threshold for value in recent)
    assert above <= share * len(recent) + 1e-9 or threshold == max(recent)
    smaller = [value for value in recent if value < threshold]
    if smaller and share < 1:
        assert sum(value > max(smaller) for value in recent) > share * len(recent) - 1e-9
    assert seen.share_above(threshold) == pytest.approx(above / len(recent))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.floats(0.01, 20))
def test_a_capacity_is_shared_so_that_nobody_could_get_more_without_one_that_has_less(
    demands: list[float], capacity: float
) -> None:
    shares = tenants.fair_shares(demands, capacity)
    assert sum(shares) == pytest.approx(min(capacity, sum(demands)))
    assert all(share <= demand + 1e-9 for share, demand in zip(shares, demands, strict=True))
    cut = [share for share, demand in zip(shares, demands, strict=True) if share < demand - 1e-6]
    assert not cut or (max(cut) == pytest.approx(min(cut)) and max(shares) <= max(cut) + 1e-6)


def test_a_rate_is_steady_while_arrivals_are_and_new_at_once_when_they_change() -> None:
    rng, now, jumps, changed = random.Random(1), 0.0, 0, []
    rate = pace.Rate(now)
    for per_s in (50, 150, 30):
        until = now + 30
        while now < until:
            now += rng.expovariate(per_s)
            before = rate.changes
            rate.add(1, now)
            if rate.changes > before:
                changed.append(now - (until - 30))
            if until - 29 < now:
                jumps += abs(rate.per_s / per_s - 1) > 0.5
        assert rate.per_s == pytest.approx(per_s, rel=0.1)
    assert jumps == 0
    assert sum(late > 1 for late in changed) <= 1


def test_a_time_is_known_soon_after_it_has_changed_and_a_hiccup_moves_little() -> None:
    rng, one = random.Random(1), pace.Estimate()
    for mean in (7.0, 14.0, 5.0):
        jumped = [one.add(mean * rng.uniform(0.8, 1.2)) for _ in range(200)]
        assert one.mean == pytest.approx(mean, rel=0.04) and sum(jumped) <= 3
        assert mean * 1.05 < one.high < mean * 1.25
    one.add(5000.0)
    assert one.mean < 5.5


def test_an_estimate_that_became_wrong_is_corrected_though_it_refuses_everything(clock: Clock) -> None:
    """Some of the requests that it refuses are tried while nobody waits."""
    control, refused = measured(clock), []
    for _ in range(200):
        one = load.Job(payload=None, arrived=clock.now, threshold=1.0, deadline=clock.now + 0.008)
        refused.append(control.enter(one) is not None)
        if not refused[-1]:
            clock.now += 0.002  # in place of 10 ms
            control.route(one, 0.5)
            control.done(one, routes=[1])
        clock.now += 0.05
    assert refused[:3] == [True] * 3
    assert not any(refused[-50:])


def test_a_request_is_refused_at_once_if_it_cannot_be_answered_before_its_deadline(clock: Clock) -> None:
    control = measured(clock)
    assert control.idle()

    def ask(deadline_ms: float, **rest: Any) -> Any:
        deadline = clock.now + deadline_ms / 1e3
        return load.Job(payload=deadline_ms, arrived=clock.now, threshold=1.0, deadline=deadline, **rest)

    assert control.enter(ask(5)).reason == "late"
    assert all(control.admit(ask(1000)) is None for _ in range(4))  # 40 ms
    assert not control.idle()
    refused = control.admit(ask(45))
    assert (refused.reason, control.state().queue) == ("late", 4)
    assert control.admit(ask(45 + refused.retry_after_ms)) is None  # what it was told to wait would have been enough
    assert control.admit(ask(30, priority=5)) is None  # it overtakes them


def test_a_full_queue_says_so_and_one_tenant_leaves_places_to_others(clock: Clock) -> None:
    rules = {name: load.TenantRule() for name in "ab"}
    control = measured(clock, bound=10, tenants_rules=rules)
    refusals = [control.admit(job(tenant="a", arrived=clock.now)) for _ in range(10)]
    assert [refusal is None for refusal in refusals] == [True] * 8 + [False] * 2
    assert refusals[-1].reason == "full" and refusals[-1].retry_after_ms >= 1
    assert control.admit(job(tenant="b", arrived=clock.now)) is None


def test_requests_whose_time_has_run_out_come_out_apart_and_need_no_done(clock: Clock) -> None:
    control = measured(clock)
    soon = load.Job(payload="soon", arrived=clock.now, threshold=1.0, deadline=clock.now + 0.1)
    later = load.Job(payload="later", arrived=clock.now, threshold=1.0, deadline=clock.now + 9)
    assert control.admit(soon) is None and control.admit(later) is None
    clock.now += 0.2
    assert [one.payload for one in control.take()] == ["later"]
    assert [(one.payload, refusal.reason) for one, refusal in control.refused_late()] == [("soon", "late")]
    assert control.refused_late() == []
    control.done(later, routes=())
    assert control.idle()


def test_an_image_is_degraded_if_its_deadline_or_that_of_one_that_waits_leaves_no_time_for_detector_2(
    clock: Clock,
) -> None:
    control = measured(clock)

    def route(*, deadline_ms: float, waiting_ms: float | None = None, threshold: float = 0.4) -> int:
        asked = load.Job(payload=None, arrived=clock.now, threshold=threshold, deadline=clock.now + deadline_ms / 1e3)
        assert control.enter(asked) is None
        clock.now += 0.005
        if waiting_ms is not None:
            behind = load.Job(payload=None, arrived=clock.now, threshold=1.0, deadline=clock.now + waiting_ms / 1e3)
            assert control.admit(behind) is None
        found = int(control.route(asked, 0.5))
        control.done(asked, routes=[])
        for one in control.take(block=False) or []:
            control.done(one, routes=[])
        return found

    assert route(deadline_ms=100) == load.HARD
    assert route(deadline_ms=17) == load.DEGRADED
    assert route(deadline_ms=17, threshold=0.6) == load.EASY
    assert route(deadline_ms=1000, waiting_ms=22) == load.DEGRADED
    assert route(deadline_ms=1000, waiting_ms=60) == load.HARD
    assert route(deadline_ms=1000, threshold=0.0) == load.HARD


def test_a_budget_of_hard_images_degrades_the_others_and_belongs_to_one_tenant(clock: Clock) -> None:
    control = measured(clock, tenants_rules={"a": load.TenantRule(hard_per_s=2, burst=3)})

    def routes(tenant: str, images: int) -> list[int]:
        asked = load.Job(payload=None, arrived=clock.now, threshold=0.4, tenant=tenant, images=images)
        assert control.enter(asked) is None
        found = [control.route(asked, 0.5) for _ in range(images)]
        control.done(asked, routes=found)
        return found

    assert routes("a", 5) == [load.HARD] * 3 + [load.DEGRADED] * 2
    assert routes("", 5) == routes("unknown", 5) == [load.HARD] * 5
    clock.now += 1
    assert Counter(routes("a", 5)) == {load.HARD: 2, load.DEGRADED: 3}


@pytest.mark.parametrize("allowed", [0.02, 0.05])
def test_the_margin_becomes_so_wide_that_as_many_are_late_as_may_be(allowed: float) -> None:
    rng, margin, late = random.Random(1), deciding.Margin(late=allowed), []
    for _ in range(6000):
        late.append(rng.uniform(0, 2) > margin.answers)  # the error of a prediction, in easy answers
        margin.learn(late=late[-1])
    assert sum(late[-4000:]) / 4000 == pytest.approx(allowed, abs=0.005)


def test_few_answers_may_be_late_at_light_load_and_none_at_high_load() -> None:
    allowance, taken = deciding.Allowance(), 0
    for _ in range(10_000):
        allowance.admitted()
        taken += allowance.take()
    assert 0.04 * 10_000 <= taken <= 0.04 * 10_000 + 150
    assert not allowance.take()
    allowance.give_back()
    assert allowance.take()
    allowance.load_is(1.0)
    for _ in range(100):
        allowance.admitted()
    assert not allowance.take()


def test_a_difficulty_that_is_no_number_is_hard_and_threshold_0_sends_all_to_detector_2() -> None:
    assert deciding.is_hard(math.nan, 0.9) and deciding.is_hard(0.0, 0.0)
    assert not deciding.is_hard(0.5, 0.5) and deciding.is_hard(0.51, 0.5)


def test_the_target_utilisation_falls_with_the_promise_and_rises_with_workers() -> None:
    def target(promise_s: float, workers: int = 1, variation: float = 0.05) -> float:
        return float(
            gears.target_utilisation(
                promise_s=promise_s, answer_s=0.01, server_s=0.01 / workers, variation=variation, workers=workers
            )
        )

    assert target(0.03) < target(0.1) < target(0.4) < 0.98
    assert target(0.1) < target(0.1, workers=4)
    assert target(0.1, variation=1) < target(0.1)
    assert target(0.005) == target(0.01) == 0.3


def test_several_workers_answer_every_request_once_and_end_when_the_queue_is_closed() -> None:
    control = load.Load(workers=3, bound=5000)
    control.configure(tenants={})
    answered: list[int] = []

    def work() -> None:
        while (jobs := control.take(4)) is not None:
            for one in jobs:
                control.done(one, routes=[control.route(one, 0.3) for _ in range(one.images)])
                answered.append(one.payload)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for number in range(2000):
        assert control.admit(load.Job(payload=number, arrived=0.0, threshold=0.5, images=1 + number % 3)) is None
    control.close()
    for worker in workers:
        worker.join(timeout=60)
    assert not any(worker.is_alive() for worker in workers)
    assert sorted(answered) == list(range(2000))
    assert control.idle() and control.take() is None


def test_a_worker_that_sleeps_is_woken_by_a_request() -> None:
    control = load.Load(workers=1)
    found: list[Any] = []
    worker = threading.Thread(target=lambda: found.append(control.take()), daemon=True)
    worker.start()
    worker.join(timeout=0.05)  # it sleeps now
    assert control.admit(load.Job(payload="wake up", arrived=0.0, threshold=0.5)) is None
    worker.join(timeout=30)
    assert [one.payload for one in found[0]] == ["wake up"]


@pytest.fixture(autouse=True)
def nothing_else_is_imported() -> Iterator[None]:
    """The names of the files are common words: an import of theirs must not stay behind."""
    yield
    loaded = sys.modules.get("load")
    assert not isinstance(loaded, ModuleType) or "dyndet_templates" not in str(loaded.__file__)
