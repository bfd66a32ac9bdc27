"""Options of commands that push a build to a running server: its connection, and the comparison before the switch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamicdet.aliases import Progress, silent
from dynamicdet.redaction import remember_secret
from dyndet_builder.defaults import MIN_IOU, MIN_SCORE, PARTNER_SCORE
from dyndet_builder.server.admin import admin_headers, grpc_headers, restricted_headers
from dyndet_client.cli.headers import lines_of, read_headers

if TYPE_CHECKING:
    from dyndet_builder.deployment.agreement import Agreement
    from dyndet_builder.server.remote import Candidate, RemoteServer


class _Share(click.ParamType):  # type: ignore[type-arg]
    """`98%` or `0.98`."""

    name = "share"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:  # 98 would be 9800 %
            self.fail(f"{text!r} is not a share; give one such as 98% or 0.98", param, ctx)
        return number


class Seconds(click.FloatRange):
    """A finite number of seconds, not below 0."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails if it is negative or not finite."""
        number = float(super().convert(value, param, ctx))  # type: ignore[arg-type]
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number of seconds", param, ctx)
        return number


def admin_header_option(*, after: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option `--admin-header`; its help begins with `after`."""
    return click.option(
        "--admin-header",
        metavar="'NAME: VALUE'",
        help=f"{after}Header that the server requires before it loads models; or @FILE with the header or the key "
        "alone, so that `ps` does not show it.  [default: that of `dyndet deploy` and `dyndet serve`, with the key in "
        "DYNDET_ADMIN_KEY]",
    )


class Comparer:
    """Compares a new build with the running one before the switch, if images are given; keeps the result."""

    def __init__(self, images: Path | None, required: float | None) -> None:
        self._images = images
        self._required = required
        self._progress: Progress = silent
        self.agreement: Agreement | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether there is anything to do."""
        return self._images is not None

    def with_progress(self, progress: Progress) -> Comparer:
        """The same, with progress bars."""
        self._progress = progress
        return self

    def __call__(self, candidate: Candidate) -> None:
        """Compare. Raises AgreementError if the builds do not agree as required."""
        from dyndet_builder.deployment.agreement import compare_builds

        if self._images is None:
            return
        self.agreement = compare_builds(candidate, self._images, progress=self._progress)
        if self.agreement is None:
            self.notes = ("nothing was compared, because no build of this detector was running",)
        elif self._required is not None:
            self.agreement.require(self._required)


def compare_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the comparison before the switch; the command gets it as one `comparer`."""

    @click.option(
        "--compare",
        "compare_images",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of images: compare boxes, routes and latency of the new build with the running one before the "
        "switch, on at most 200 of them.",
    )
    @click.option(
        "--require-agreement",
        type=_Share(),
        metavar="SHARE",
        help="With --compare: share of the images on which both builds must agree, such as 98%. They agree if the "
        f"route is the same, and if every box with a score of at least {MIN_SCORE} in one answer has one of the same "
        f"class in the other with an IoU of at least {MIN_IOU} and a score of at least {PARTNER_SCORE}.",
    )
    @functools.wraps(command)
    def with_comparer(*, compare_images: Path | None, require_agreement: float | None, **options: Any) -> Any:
        if require_agreement is not None and compare_images is None:
            raise click.UsageError("--require-agreement needs --compare: give a folder of images")
        return command(comparer=Comparer(compare_images, require_agreement), **options)

    return with_comparer


def remote_server(
    *,
    url: str,
    models: str,
    metrics_url: str | None,
    admin_header: str | None,
    wait_s: float = 60.0,
    change_contract: bool = False,
) -> RemoteServer:
    """The server that these options name."""
    from dyndet_builder.server.remote import RemoteServer

    return RemoteServer(
        url=url,
        models=models,
        metrics_url=metrics_url,
        admin_headers=admin_headers() if admin_header is None else _read_admin_header(admin_header),
        wait_s=wait_s,
        change_contract=change_contract,
    )


def _read_admin_header(text: str) -> dict[str, str]:
    """The header as gRPC needs it, from `NAME: VALUE`, `@FILE` with such a line, or `@FILE` with the key alone."""
    lines = lines_of(text[1:]) if text.startswith("@") else [text]
    if text.startswith("@") and len(lines) == 1 and ":" not in lines[0]:
        remember_secret(lines[0])
        return grpc_headers(lines[0])
    return restricted_headers(read_headers([text]))
