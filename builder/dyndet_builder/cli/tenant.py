"""`dyndet tenant`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from dynamicdet.text import printable
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.repository.under_load import UnderLoad


@click.group("tenant")
def command() -> None:
    """Set what each tenant may use of detector 2.

    A request names its tenant with the parameter dyndet_tenant. A tenant that has used up its hard images gets the
    answers of detector 1. A running server that reads the repository takes up a change at once.
    """


def _shared(command: Callable[..., UnderLoad]) -> Callable[..., Any]:
    """Add REPOSITORY, --model and --json; print the tenants that the command returns."""

    @click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
    @click.option("--model", help="Name of the detector, if REPOSITORY holds several.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @functools.wraps(command)
    def with_output(*, as_json: bool, **options: Any) -> None:
        found = command(**options)
        tenants = found.points.tenants or {}
        if as_json:
            click.echo(json.dumps({name: tenant.model_dump() for name, tenant in tenants.items()}, indent=2))
        elif tenants:
            Console().print(_table(found))
        else:
            click.echo(f"The detector {printable(found.model)} has no tenants.")

    return with_output


@command.command("set", short_help="Add a tenant, or change it.")
@_shared
@click.argument("name")
@click.option(
    "--hard-per-second",
    "hard_per_s",
    type=float,
    required=True,
    help="Hard images a second in the long run; 0: only the answers of detector 1 once the burst is used up.",
)
@click.option("--burst", type=float, help="Hard images that can follow each other.  [default: those of a second]")
@click.option("--operating-point", help="Operating point of its requests that name none.  [default: the default one]")
def set_command(
    repository: Path,
    model: str | None,
    name: str,
    hard_per_s: float,
    burst: float | None,
    operating_point: str | None,
) -> UnderLoad:
    """Add the tenant NAME, or replace what was set for it, and show all tenants.

    \b
    Examples:
      dyndet tenant set build/models street --hard-per-second 20
      dyndet tenant set build/models archive --hard-per-second 2 --burst 50 --operating-point 12ms
    """
    from dyndet_builder.repository.under_load import set_tenant

    return set_tenant(
        repository, name, hard_per_s=hard_per_s, burst=burst, operating_point=operating_point, model=model
    )


@command.command("remove", short_help="Remove a tenant.")
@_shared
@click.argument("name")
def remove_command(repository: Path, model: str | None, name: str) -> UnderLoad:
    """Remove the tenant NAME, and show those that are left.

    \b
    Example:
      dyndet tenant remove build/models archive
    """
    from dyndet_builder.repository.under_load import remove_tenant

    return remove_tenant(repository, name, model=model)


@command.command("list", short_help="Show the tenants.")
@_shared
def list_command(repository: Path, model: str | None) -> UnderLoad:
    """Show the tenants of a detector.

    \b
    Example:
      dyndet tenant list build/models
    """
    from dyndet_builder.repository.under_load import read_under_load

    return read_under_load(repository, model=model)


def _table(found: UnderLoad) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("tenant", "hard images/s", "burst", "operating point"):
        table.add_column(head, justify="right" if head in ("hard images/s", "burst") else "left")
    for name, tenant in (found.points.tenants or {}).items():
        point = tenant.operating_point or f"{found.points.default} (default)"
        table.add_row(printable(name), f"{tenant.hard_per_s:g}", f"{tenant.burst:g}", printable(point))
    return table
