"""`dyndet doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from dyndet_builder.doctor import CHECKS, Finding, doctor
from dyndet_client.cli.terminal import Console


@click.command("doctor")
@click.option("--check", "names", multiple=True, type=click.Choice(CHECKS), help="Check only this part (repeatable).")
@click.option("--quiet", is_flag=True, help="Show only required parts that are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Show what is installed here, what is missing, and the one command that installs it.

    Parts are the extras of dyndet, and what else `dyndet-build` and GPU servers need. The exit status is 0. With
    --quiet or --check, it is 4 if `dyndet-build` cannot run on this machine, or if a part named by --check is missing.

    \b
    Example:
      dyndet doctor
    """
    findings = doctor(names or CHECKS)
    lacking = [finding for finding in findings if not finding.present and (finding.needed or names)]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(lacking if quiet else findings)
        if not quiet:
            what = "" if names else " for `dyndet-build`"
            click.echo(
                f"Missing{what}: {', '.join(finding.name for finding in lacking)}."
                if lacking
                else "This machine has everything that `dyndet-build` needs."
            )
    click.get_current_context().exit(4 if lacking and (quiet or names) else 0)


def _show(findings: list[Finding]) -> None:
    if not findings:
        return
    Console().print(_table(findings))
    remedies: dict[str, list[str]] = {}
    for finding in findings:
        if not finding.present and finding.remedy:
            remedies.setdefault(finding.remedy, []).append(finding.name)
    if remedies:
        width = max(len(", ".join(names)) for names in remedies.values())
        click.echo("\nHow to install what is missing:")
        for remedy, names in remedies.items():  # not in the table, which could break a command
            click.echo(f"  {', '.join(names):<{width}}  {remedy}")
        click.echo("")


def _table(findings: list[Finding]) -> Table:
    table = Table("part", "", "what is here", box=None, header_style="bold", pad_edge=False)
    for finding in findings:
        style = "green" if finding.present else "red" if finding.needed else "yellow"
        table.add_row(finding.name, Text("yes" if finding.present else "no", style), finding.detail)
    return table
