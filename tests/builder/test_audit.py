"""`make audit` says what is known against the pinned packages, and what nobody could say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dyndet_audit", Path(__file__).parents[2] / "builder" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


SKIPPED = {"name": "pillow", "skip_reason": "Dependency not found on PyPI and could not be audited: pillow (9.0.0)"}


def described(newest: str, *, yanked: bool = False) -> dict[str, object]:
    return {
        "info": {"version": newest},
        "releases": {"9.0.0": [{"yanked": yanked, "yanked_reason": "broken"}]},
        "vulnerabilities": [
            {"id": "PYSEC-1", "aliases": [], "fixed_in": ["9.0.1"]},
            {"id": "PYSEC-2", "aliases": [], "fixed_in": [], "withdrawn": "2026-01-01"},
        ],
    }


def test_an_advisory_that_pip_audit_finds_is_a_finding(audit: ModuleType) -> None:
    vulns = [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["9.0.1"]}]
    found = audit.judge({"name": "pillow", "version": "9.0.0", "vulns": vulns}, lambda _: None)
    assert found.known and found.findings == ("PYSEC-1, fixed in 9.0.1",)


def test_a_version_that_pip_audit_skipped_is_known_only_if_it_is_the_newest(audit: ModuleType) -> None:
    newest = audit.judge(SKIPPED, lambda _: described("9.0.0"))
    assert newest.known and newest.findings == ("PYSEC-1, fixed in 9.0.1",)
    older = audit.judge(SKIPPED, lambda _: described("9.0.1"))
    assert not older.known and older.findings == ()
    assert not audit.judge(SKIPPED, lambda _: None).known


def test_a_withdrawn_version_is_a_finding_whether_or_not_it_is_the_newest(audit: ModuleType) -> None:
    assert audit.judge(SKIPPED, lambda _: described("9.0.1", yanked=True)).findings == ("withdrawn: broken",)


def test_an_accepted_advisory_is_left_out_by_any_of_its_names(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "the code is not used"})
    vulns = [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["9.0.1"]}]
    assert audit.judge({"name": "pillow", "version": "9.0.0", "vulns": vulns}, lambda _: None).findings == ()
