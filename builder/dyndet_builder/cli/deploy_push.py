"""`dyndet deploy push` and `dyndet deploy rollback`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from dynamicdet.redaction import public_address
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.remote_options import (
    Comparer,
    Seconds,
    admin_header_option,
    compare_options,
    remote_server,
)
from dyndet_builder.quoting import command as command_line
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.deployment.agreement import Agreement
    from dyndet_builder.server.remote import Deployed, RemoteServer

_SHOWN = 10


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which server gets the build; the command gets it as one `server`."""

    @click.option("--url", required=True, help="gRPC address of the server, in explicit model-control mode.")
    @click.option(
        "--models", required=True, help="Model folder of that server, as a path on this machine, s3:// or gs://."
    )
    @click.option("--metrics-url", help="Prometheus metrics of the server.  [default: port 8002 of its host]")
    @admin_header_option()
    @click.option(
        "--wait",
        "wait_s",
        type=Seconds(),
        default=60.0,
        show_default=True,
        help="Seconds to wait for another push of the same detector.",
    )
    @click.option(
        "--change-contract",
        is_flag=True,
        help="Switch also if the input size or the class names differ from those in use; connected clients then fail, "
        "or name objects wrongly, until they connect again.",
    )
    @functools.wraps(command)
    def with_server(
        *,
        url: str,
        models: str,
        metrics_url: str | None,
        admin_header: str | None,
        wait_s: float,
        change_contract: bool,
        **options: Any,
    ) -> Any:
        server = remote_server(
            url=url,
            models=models,
            metrics_url=metrics_url,
            admin_header=admin_header,
            wait_s=wait_s,
            change_contract=change_contract,
        )
        return command(server=server, **options)

    return with_server


@click.command("push", short_help="Replace a served detector with a new build.")
@click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", help="The detector to push.  [default: the repository's]")
@_server_options
@compare_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def push_command(repository: Path, model: str | None, server: RemoteServer, comparer: Comparer, as_json: bool) -> None:
    """Replace a served detector with a new build, without losing a request.

    The new build is put beside the running one. When it is loaded, warm and answers on both routes, the server switches
    to it, and the old build is unloaded. If the new build fails before that, the old one stays in use, and the new one
    is removed. The old build is stored in MODELS/NAME.previous.tar, for `dyndet deploy rollback`. Other models of the
    folder are not touched. A build with another input size or other class names is refused, because connected clients
    depend on them; see --change-contract.

    Exit status 6: the server refuses, or the new build does not load or does not answer. Exit status 8: the new build
    does not agree with the running one. Nothing has changed in either case.

    \b
    Examples:
      dyndet deploy push build/models --url gpu-host:8001 --models /mnt/models
      dyndet deploy push build/models --url gpu-host:8001 --models /mnt/models --compare photos --require-agreement 98%
    """
    from dyndet_builder.repository.rendered import read_rendered

    name = model if model is not None else read_rendered(repository).model
    with step_bars() as show:
        _run(
            lambda: server.deploy(repository, name, before_switch=comparer.with_progress(show), progress=show),
            comparer,
            f"{server.url} serves the build of {repository} as {name}",
            back=f"Back to the build before: {_rollback(server, name)}",
            as_json=as_json,
        )


@click.command("rollback", short_help="Go back to the build before the last push.")
@click.option("--model", default="dyndet", show_default=True, help="The detector to take back.")
@_server_options
@compare_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rollback_command(model: str, server: RemoteServer, comparer: Comparer, as_json: bool) -> None:
    """Go back to the build that the last push replaced, without losing a request.

    The earlier build, with its operating points, is pushed as `dyndet deploy push` does it. The build that was running
    takes its place in the archive, so a second rollback returns to it.

    \b
    Example:
      dyndet deploy rollback --model street --url gpu-host:8001 --models /mnt/models
    """
    with step_bars() as show:
        _run(
            lambda: server.rollback(model, before_switch=comparer.with_progress(show), progress=show),
            comparer,
            f"{server.url} serves the earlier build of {model} again",
            back=f"Back to the newer build: {_rollback(server, model)}",
            as_json=as_json,
        )


def _rollback(server: RemoteServer, model: str) -> str:
    """The command that goes back, to be copied; the admin key stays out of it."""
    models = public_address(server.models)
    words = ["dyndet", "deploy", "rollback", "--model", model, "--url", server.url, "--models", models]
    return command_line(words if server.metrics_url is None else [*words, "--metrics-url", server.metrics_url])


def _run(act: Callable[[], Deployed], comparer: Comparer, done: str, *, back: str, as_json: bool) -> None:
    """Push, then print; a comparison is printed also if the push failed because of it."""
    deployed = None
    try:
        deployed = act()
    finally:
        if as_json:
            found = None if comparer.agreement is None else comparer.agreement.as_json()
            what = None if deployed is None else {"models": deployed.models, "notes": deployed.notes}
            if deployed is not None or found is not None:
                click.echo(json.dumps({"deployed": what, "comparison": found}, indent=2))
        elif comparer.agreement is not None:
            show_agreement(Console(), comparer.agreement)
    if as_json:
        return
    click.echo(f"{done}: {', '.join(deployed.models)}.")
    for note in (*comparer.notes, *deployed.notes):
        click.echo(f"Note: {note}.")
    if deployed.can_roll_back:
        click.echo(back)


def show_agreement(console: Console, agreement: Agreement) -> None:
    """Print both builds side by side, and the images on which they differ."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"{len(agreement.pairs)} images")
    for header in ("hard", "objects", "mean, ms", "p50", "p95"):
        table.add_column(header, justify="right")
    for name, side in agreement.sides.items():
        times = (f"{value:.1f}" for value in (side.mean_ms, side.p50_ms, side.p95_ms))
        table.add_row({"old": "running", "new": "new"}[name], f"{side.hard:.0%}", str(side.objects), *times)
    console.print(table)
    console.print(f"The builds agree on {agreement.share:.1%} of the images.")
    if not agreement.differing:
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("differs", "route", "objects"):
        table.add_column(header)
    for pair in agreement.differing[:_SHOWN]:
        old, new = pair.old, pair.new
        objects = f"{old.objects}, {new.objects}" + ("" if pair.same_boxes else " (other boxes)")
        route = old.route if old.route == new.route else f"{old.route}, then {new.route}"
        table.add_row(pair.image, route, objects)
    console.print(table)
    if (more := len(agreement.differing) - _SHOWN) > 0:
        console.print(f"and {more} more; --json lists all")
