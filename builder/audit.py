"""`make audit`: known advisories for the pinned packages in constraints.txt, by pip-audit, and what it cannot say.

pip-audit asks the package index for each pinned version. Some mirrors answer only for the newest version of a package;
pip-audit then skips the others and reports no vulnerabilities. So this script asks once more what can be asked: whether
a skipped version is the newest one, which the index does describe, and whether it was withdrawn (yanked). It names
what stays unknown. It needs only the standard library, and pip-audit as a program.

Exit status: 0 if nothing is known against the pinned versions, 1 if an advisory or a withdrawal is, 2 if pip-audit
failed, 4 with `--strict` if the index says nothing about some packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "https://pypi.org/pypi"
_WAIT_S = 20

ACCEPTED: Mapping[str, str] = {}
"""advisories that do not apply here, by id, each with the reason"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known about one pinned package."""

    name: str
    version: str
    known: bool
    """whether anybody could say something about this version"""
    findings: tuple[str, ...] = ()


def judge(package: Mapping[str, Any], ask: Callable[[str], Mapping[str, Any] | None]) -> Verdict:
    """The verdict on one entry of pip-audit's report; `ask` returns the index's description of a package, or None."""
    name, version = str(package["name"]), str(package.get("version", ""))
    if "skip_reason" not in package:
        return Verdict(name=name, version=version, known=True, findings=_advisories(package["vulns"], "fix_versions"))
    version = version or str(package["skip_reason"]).rpartition("(")[2].rstrip(")")
    described = ask(name)
    if described is None:
        return Verdict(name=name, version=version, known=False)
    newest = described["info"]["version"] == version
    files = described.get("releases", {}).get(version, [])
    yanked = [str(file.get("yanked_reason") or "no reason given") for file in files if file.get("yanked")]
    findings = tuple(f"withdrawn: {reason}" for reason in dict.fromkeys(yanked))
    if newest:
        findings += _advisories(described.get("vulnerabilities", ()), "fixed_in")
    return Verdict(name=name, version=version, known=newest, findings=findings)


def _advisories(found: Sequence[Mapping[str, Any]], fixes: str) -> tuple[str, ...]:
    texts = []
    for advisory in found:
        if advisory.get("withdrawn") or ACCEPTED.keys() & {advisory["id"], *advisory.get("aliases", ())}:
            continue
        texts.append(f"{advisory['id']}, fixed in {', '.join(advisory[fixes]) or 'no version yet'}")
    return tuple(texts)


def main() -> int:
    """Print what is known and return the exit status."""
    parser = argparse.ArgumentParser(description="Known advisories for the pinned packages.")
    parser.add_argument("--pip-audit", type=Path, required=True, help="the program")
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    parser.add_argument("--strict", action="store_true", help="fail if the index says nothing about some packages")
    options = parser.parse_args()
    command = [str(options.pip_audit), "--requirement", str(options.constraints), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it printed nothing"]
        print(f"Error: pip-audit failed: {lines[-1]}", file=sys.stderr)  # noqa: T201
        return 2
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda package: judge(package, _ask), packages))
    return _report(verdicts, strict=options.strict)


def _report(verdicts: Sequence[Verdict], *, strict: bool) -> int:
    against = [verdict for verdict in verdicts if verdict.findings]
    unknown = [verdict for verdict in verdicts if not verdict.known]
    lines = [f"{one.name} {one.version}: {finding}" for one in against for finding in one.findings]
    clean = sum(verdict.known and not verdict.findings for verdict in verdicts)
    lines.append(
        f"Of {len(verdicts)} packages, {clean} have no known advisory and {len(against)} have one; the index has no "
        f"data on the pinned versions of the other {len(unknown)}"
    )
    if unknown:
        lines.append("No data: " + ", ".join(f"{one.name} {one.version}" for one in unknown))
    print("\n".join(lines))  # noqa: T201
    return 1 if against else 4 if unknown and strict else 0


def _ask(name: str) -> Mapping[str, Any] | None:
    try:
        with urllib.request.urlopen(f"{INDEX}/{name}/json", timeout=_WAIT_S) as answer:
            described: Mapping[str, Any] = json.load(answer)
    except (urllib.error.URLError, TimeoutError, ValueError):
        return None
    return described if isinstance(described, dict) and "info" in described else None


if __name__ == "__main__":
    sys.exit(main())
