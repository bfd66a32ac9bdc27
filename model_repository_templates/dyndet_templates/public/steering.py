"""Steers the thresholds in force: from arrivals and measured times to a share of hard images for each tenant.

Rendering puts this file beside every public model. Needs only Python. Nothing here locks or reads a clock; times are
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from backlog import Follow, Job  # type: ignore[import-not-found]
from gears import Correction, capacity, hard_share, target_utilisation  # type: ignore[import-not-found]
from pace import Estimate, Pace  # type: ignore[import-not-found]
from tenants import Tenant, TenantRule, Tenants, fair_shares  # type: ignore[import-not-found]

_TICK_S, _REFRESH_S = 0.1, 0.5
_TENANTS_PER_TICK = 50
"""with more of them, there are fewer ticks"""
_MOST = 0.97
"""utilisation that is never exceeded on purpose"""
_FORGOTTEN_S = 30.0
"""after which a promise that nobody asked for counts no more"""


class Steering:
    """What is known about load and speed, and the gears that follow from it. `tick` moves them."""

    def __init__(self, *, workers: int, now: float) -> None:
        self.pace = Pace(workers=workers)
        self.tenants = Tenants(now=now)
        self.correction = Correction(now)
        self.utilisation = 0.9
        """share of its time that the server may work"""
        self.flooding: frozenset[str] = frozenset()
        """tenants that ask for more than their share even of easy answers"""
        self._workers = workers
        self._promise_s, self._promised = math.inf, now
        self._limits = 0.9, 0.9
        """target utilisation if all are easy, and if all are hard"""
        self._ticked = self._refreshed = now
        self._every_s = _TICK_S
        self._seen_changes = self._seen_jumps = 0

    def configure(self, rules: Mapping[str, TenantRule], now: float) -> None:
        """Put the rules of tenants into force."""
        self.tenants.configure(rules, now=now)

    def arrived(self, job: Job, now: float) -> None:
        """Count a request that is offered."""
        if not job.second:
            self.tenants.arrived(job.group, job.images, now)
        if job.follow is not None:
            promise_s = job.follow.promise_s
            if promise_s <= self._promise_s or now - self._promised > _FORGOTTEN_S:  # the shortest one counts
                self._promise_s, self._promised = promise_s, now
        self.tick(now)

    def threshold(self, base: float, follow: Follow | None, group: str) -> float:
        """The threshold in force for a tenant at an operating point."""
        if follow is None:
            return base
        return float(min(follow.ceiling, max(follow.floor, self.tenants[group].gear.threshold)))

    def tick(self, now: float) -> None:
        """Let the gears follow what has been seen, ten times a second."""
        if now - self._ticked >= self._every_s:
            self._tick(now)

    def _tick(self, now: float) -> None:
        self._ticked = now
        self.tenants.roll(now)
        active = self.tenants.active
        changes, jumps = sum(tenant.rate.changes for tenant in active.values()), self.pace.jumps
        changed, self._seen_changes = changes != self._seen_changes, changes
        jumped, self._seen_jumps = jumps != self._seen_jumps, jumps
        if changed or jumped:
            self.correction.begin(now)
        easy_s = self.pace.server_easy_s
        if not easy_s:
            return
        hard_s = max(easy_s, self.pace.server_hard_s)
        if changed or jumped or now - self._refreshed >= _REFRESH_S:
            self._refresh(now)
        per_s = sum(tenant.rate.per_s for tenant in active.values())
        self.utilisation = capacity(
            all_easy=self._limits[0], all_hard=self._limits[1], per_s=per_s, easy_s=easy_s, hard_s=hard_s
        )
        demands = [one.rate.per_s * (easy_s + one.gear.due * (hard_s - easy_s)) for one in active.values()]
        shares = fair_shares(demands, self.utilisation)
        spare = self.utilisation - sum(shares)
        self.correction.judge(
            may_rise=spare <= 0 and per_s * easy_s < 0.95,
            may_fall=any(one.gear.share > 0 for one in active.values()),
            now=now,
        )
        for tenant, share in zip(active.values(), shares, strict=True):
            self._shift(tenant, share + spare, changed, now)
        self.flooding = frozenset(name for name, tenant in active.items() if tenant.floods)

    def _shift(self, tenant: Tenant, utilisation: float, changed: bool, now: float) -> None:
        """Let a tenant's threshold follow the part of the server's time that it may use."""
        easy_s, per_s = self.pace.server_easy_s, tenant.rate.per_s
        hard_s = max(easy_s, self.pace.server_hard_s)
        allowed = hard_share(utilisation=utilisation, per_s=per_s, easy_s=easy_s, hard_s=hard_s)
        allowed = min(allowed, tenant.rule.hard_per_s / per_s)
        tenant.floods = per_s * easy_s > utilisation
        sure = 1 - 2 * max(0.0, tenant.rate.uncertainty - 0.02)  # a short crowd at light load is no overload
        tenant.allowance.load_is(sure * per_s * easy_s * self.utilisation / max(1e-9, utilisation))
        scatter = tenant.rate.uncertainty * utilisation / per_s / max(1e-9, hard_s - easy_s)
        tenant.gear.follow(allowed, tenant.difficulties, band=min(0.15, max(0.04, scatter)), changed=changed, now=now)

    def _refresh(self, now: float) -> None:
        """Take the difficulties and times of the last half second into account."""
        self._refreshed = now
        self._every_s = _TICK_S * max(1.0, len(self.tenants.active) / _TENANTS_PER_TICK)
        for tenant in self.tenants.active.values():
            tenant.difficulties.refresh()
        if self._promise_s == math.inf:
            return
        easy = self.pace.easy(self._workers)
        hard = self.pace.hard(self._workers) or easy
        self._limits = self._limit(easy, self.pace.server_easy_s), self._limit(hard, self.pace.server_hard_s)

    def _limit(self, answer: Estimate, server_s: float) -> float:
        """The target utilisation for answers of one route."""
        target = target_utilisation(
            promise_s=self._promise_s,
            answer_s=answer.mean,
            server_s=server_s or answer.mean / self._workers,
            variation=(1.25 * answer.deviation / answer.mean) ** 2,
            workers=self._workers,
        )
        return float(min(_MOST, target + self.correction.value))
