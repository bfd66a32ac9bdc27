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

    The exit status is 0 if `dyndet-build` can run on this machine, or if all parts named by --check are present.
    Otherwise it is 4.

    \b
    Example:
      dyndet doctor
    """
    findings = doctor(names or CHECKS)
    lacking = [finding for finding in findings if not finding.present and (finding.needed or names)]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        shown = lacking if quiet else findings
        if shown:
            Console().print(_table(shown))
        if not quiet:
            click.echo(
                "This machine has everything that `dyndet-build` needs."
                if not lacking
                else f"Missing: {', '.join(finding.name for finding in lacking)}."
            )
    click.get_current_context().exit(4 if lacking else 0)


def _table(findings: list[Finding]) -> Table:
    table = Table("part", "", "version", "how to install it", box=None, header_style="bold", pad_edge=False)
    for finding in findings:
        style = "green" if finding.present else "red" if finding.needed else "yellow"
        mark = Text("yes" if finding.present else "no", style)
        table.add_row(finding.name, mark, finding.detail, "" if finding.present else finding.remedy)
    return table
