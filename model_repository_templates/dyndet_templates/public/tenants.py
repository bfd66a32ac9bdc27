"""Tenants: what each may use, and what is known about its traffic.

Rendering puts this file beside every public model. Needs only Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deciding import Allowance  # type: ignore[import-not-found]
from gears import Difficulties, Gear  # type: ignore[import-not-found]
from pace import Rate  # type: ignore[import-not-found]


@dataclass(frozen=True, kw_only=True)
class TenantRule:
    """What a tenant may use."""

    hard_per_s: float = math.inf
    """images a second that detector 2 answers, on average"""
    burst: float = 1.0
    """images that it may answer at once after a pause"""
    operating_point: str | None = None
    """of requests that name none; None: the default"""


class Bucket:
    """A budget of images a second: fills at a constant rate up to `burst`."""

    def __init__(self, *, per_s: float, burst: float, now: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._filled = burst, now

    def take(self, images: int, now: float) -> bool:
        """Use some of the budget; False, and nothing is used, if there is too little.

        More images than fit into a full bucket may use a full one, and then it has debts.
        """
        if self._per_s == math.inf:
            return True
        self._left = min(self._burst, self._left + max(0.0, now - self._filled) * self._per_s)
        self._filled = now
        if self._left < min(images, self._burst):
            return False
        self._left -= images
        return True


class Tenant:
    """A tenant's rule, its budget, and what is known about its traffic."""

    def __init__(self, rule: TenantRule, *, now: float) -> None:
        self.rule = rule
        self.bucket = Bucket(per_s=rule.hard_per_s, burst=rule.burst, now=now)
        self.rate = Rate(now)
        self.difficulties = Difficulties()
        self.gear = Gear()
        self.allowance = Allowance()
        self.floods = False
        """whether even easy answers to all of its requests would take more than its fair share of the server"""

    def changed(self, rule: TenantRule, *, now: float) -> None:
        """Put another rule into force."""
        if rule != self.rule:
            self.rule = rule
            self.bucket = Bucket(per_s=rule.hard_per_s, burst=rule.burst, now=now)


class Tenants:
    """The tenants with a rule. All others share the place of requests that name no tenant, which is called ""."""

    def __init__(self, *, now: float) -> None:
        self._known = {"": Tenant(TenantRule(), now=now)}
        self.active: dict[str, Tenant] = {}
        """those that have sent requests in the last half minute"""

    def configure(self, rules: Mapping[str, TenantRule], *, now: float) -> None:
        """Put other rules into force; tenants that stay keep what is known about them."""
        known = {"": self._known[""]}
        for name, rule in rules.items():
            known[name] = self._known.get(name) or Tenant(rule, now=now)
            known[name].changed(rule, now=now)
        known[""].changed(rules.get("", TenantRule()), now=now)
        self._known = known
        self.active = {name: tenant for name, tenant in self.active.items() if name in known}

    def __len__(self) -> int:
        return len(self._known)

    def arrived(self, group: str, images: int, now: float) -> None:
        """Count images that a tenant offers."""
        tenant = self.active.get(group)
        if tenant is None:
            tenant = self.active[group] = self._known[group]
        tenant.rate.add(images, now)

    def roll(self, now: float) -> None:
        """Bring all rates up to date."""
        for tenant in self.active.values():
            tenant.rate.roll(now)
        if any(tenant.rate.per_s == 0 for tenant in self.active.values()):
            self.active = {name: tenant for name, tenant in self.active.items() if tenant.rate.per_s > 0}

    def group(self, name: str) -> str:
        """The name under which a tenant waits."""
        return name if name in self._known else ""

    def __getitem__(self, group: str) -> Tenant:
        return self._known.get(group) or self._known[""]


def fair_shares(demands: Sequence[float], capacity: float) -> list[float]:
    """Divide a capacity: who asks for little gets it all, and the others get equal parts of the rest (max-min)."""
    shares = [0.0] * len(demands)
    left = capacity
    order = sorted(range(len(demands)), key=demands.__getitem__)
    for place, index in enumerate(order):
        shares[index] = min(demands[index], left / (len(order) - place))
        left -= shares[index]
    return shares
