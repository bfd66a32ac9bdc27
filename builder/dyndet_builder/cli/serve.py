"""`dyndet serve`."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.cli.releases import release_given, release_options
from dyndet_builder.pins import EMBEDDED_RELEASE, RELEASES
from dyndet_builder.quoting import command as command_line
from dyndet_builder.quoting import shell
from dyndet_builder.server.admin import (
    ADMIN_VARIABLE,
    is_readable_by_others,
    key_file,
    key_from_environment,
    new_key,
    read_key,
)
from dyndet_builder.server.options import MODEL_CONTROLS, ModelControl, ServerOptions
from dyndet_builder.server.ports import is_loopback
from dyndet_builder.server.tracing import Tracing

if TYPE_CHECKING:
    from dyndet_builder.server.supervisor import StopRequest, Supervisor
    from dyndet_builder.server.triton import TritonServer

_READABLE = (
    "Warning: other users of this machine can read the shared memory in which this server passes pictures, because the "
    "kernel does not let it be changed (no seccomp filter)."
)


@click.command("serve")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--http-port", type=click.IntRange(1, 65535), help="[default: 8000 if it is free, otherwise any free port]"
)
@click.option(
    "--grpc-port", type=click.IntRange(1, 65535), help="[default: 8001 if it is free, otherwise any free port]"
)
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="[default: 8002 if it is free, otherwise any free port]"
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="IPv4 address to listen on; 0.0.0.0 listens on every network. Needs --expose unless it is this machine's own.",
)
@click.option(
    "--expose",
    is_flag=True,
    help="Consent to a --host that other machines can reach, though the embedded release has known security holes.",
)
@click.option(
    "--admin-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the key that loading of models, shared memory, logging and tracing require.  [default: with a "
    "--host that other machines can reach, the key in DYNDET_ADMIN_KEY, or a new one in a new file]",
)
@click.option(
    "--open-admin",
    is_flag=True,
    help="Require no key, though other machines can reach the --host: whoever reaches it can then load models.",
)
@click.option(
    "--no-http-inference",
    is_flag=True,
    help="Answer no requests over HTTP, which a small request can end Triton 2.51 by; health and metadata stay open.",
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the server's log to this file.  [default: no log]",
)
@click.option("--log-verbose", type=click.IntRange(0), default=0, help="Triton's verbosity.")
@click.option(
    "--model-control",
    type=click.Choice(MODEL_CONTROLS),
    default="none",
    show_default=True,
    help="Whether models can be loaded and unloaded while the server runs. explicit starts without models, and accepts "
    "an empty folder.",
)
@click.option(
    "--no-restart",
    is_flag=True,
    help="End with status 6 at the first fault, for those whose own supervisor restarts the command.",
)
@click.option(
    "--trace",
    "trace_url",
    metavar="URL",
    help="Send OpenTelemetry spans to this collector (OTLP/HTTP), such as http://127.0.0.1:4318/v1/traces; with "
    "--docker, one that the container reaches.",
)
@click.option(
    "--trace-rate",
    type=click.IntRange(0),
    help="With --trace: also trace every n-th request whose caller traces nothing.  [default: 0, none of them]",
)
@click.option("--docker", is_flag=True, help="Print a docker command for NVIDIA's image, and start nothing.")
@click.option(
    "--gpu",
    "gpus",
    type=click.IntRange(0),
    multiple=True,
    help="With --docker: prepare the server for models on this GPU (repeatable).  [default: the GPUs that the models "
    "name; with --model-control explicit, all GPUs of this machine]",
)
@release_options(of="NVIDIA's image with --docker")
def command(
    repository: Path,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
    host: str,
    expose: bool,
    admin_key_file: Path | None,
    open_admin: bool,
    no_http_inference: bool,
    log_file: Path | None,
    log_verbose: int,
    model_control: ModelControl,
    no_restart: bool,
    trace_url: str | None,
    trace_rate: int | None,
    docker: bool,
    gpus: tuple[int, ...],
    triton_version: str | None,
    allow_known_holes: bool,
) -> None:
    """Serve a model repository on this machine with the embedded Triton server until Ctrl-C.

    A server that ends, hangs, or loses the process of a model is restarted on the same ports, at most 5 times within 10
    minutes. The command then ends with status 6.

    On a --host that other machines can reach, the administrative endpoints require a key. Commands that load models
    take it by --admin-header or from DYNDET_ADMIN_KEY. The command prints where the key is, not the key.

    At Ctrl-C or SIGTERM, requests in flight are answered; a second Ctrl-C kills the server at once. A server has 20 s
    to stop and is killed after that. The environment variable DYNDET_STOP_TIMEOUT_S sets another number of seconds, for
    every command that starts a server.

    \b
    Examples:
      dyndet serve build/models
      dyndet serve build/models --grpc-port 9001 --log-file server.log
      dyndet serve build/models --host 0.0.0.0 --expose
      dyndet serve build/models --trace http://127.0.0.1:4318/v1/traces
      dyndet serve build/models --docker
      dyndet serve /mnt/models --docker --model-control explicit --gpu 0
    """
    from dyndet_builder.repository.rendered import read_repository
    from dyndet_builder.server.docker import docker_command
    from dyndet_builder.server.supervisor import Restarts, StopRequest, Supervisor
    from dyndet_builder.server.triton import DEFAULT_PORTS, TritonServer

    if trace_url is None and trace_rate is not None:
        raise click.UsageError("--trace-rate needs --trace URL")
    tracing = None if trace_url is None else Tracing(url=trace_url, rate=trace_rate or 0)
    if open_admin and admin_key_file is not None:
        raise click.UsageError("--open-admin and --admin-key-file exclude each other")
    given = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
    if docker:
        if log_file is not None:
            raise click.UsageError("--log-file belongs to the embedded server; `docker logs` shows that of a container")
        if no_restart:
            raise click.UsageError(
                "--no-restart belongs to the embedded server; `docker run --restart` is docker's own"
            )
        if admin_key_file is not None:
            raise click.UsageError(
                f"--admin-key-file belongs to the embedded server; with --docker, the key is in {ADMIN_VARIABLE} when "
                "the command that is printed runs"
            )
        if expose:
            raise click.UsageError("--expose belongs to the embedded server; with --docker, --host alone decides")
        ports = {kind: port or DEFAULT_PORTS[kind] for kind, port in given.items()}
        release = release_given(triton_version, allow_known_holes=allow_known_holes)
        words = docker_command(
            repository,
            ports=ports,
            host=host,
            open_admin=open_admin,
            http_inference=not no_http_inference,
            log_verbose=log_verbose,
            model_control=model_control,
            gpus=gpus,
            release=release,
            tracing=tracing,
        )
        _note_unread(repository, model_control)
        click.echo(command_line(words))
        if ADMIN_VARIABLE in words:
            _note_docker_key()
        return
    if gpus:
        raise click.UsageError("--gpu belongs to --docker: the embedded server uses the GPUs that its models name")
    if triton_version is not None:
        raise click.UsageError(f"--triton-version belongs to --docker: the embedded server is {EMBEDDED_RELEASE}")
    if allow_known_holes:
        raise click.UsageError("--allow-known-holes belongs to --docker: it accepts a release of NVIDIA's image")
    key, where = _admin_key(host, admin_key_file, open_admin=open_admin)
    options = ServerOptions(
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        prefer_default_ports=True,
        host=host,
        expose=expose,
        admin_key=key,
        open_admin=open_admin,
        http_inference=not no_http_inference,
        log_file=log_file,
        log_verbose=log_verbose,
        model_control=model_control,
        tracing=tracing,
    )
    server = TritonServer(repository, options)
    _note_unread(repository, model_control)
    stop = StopRequest()
    restarts = Restarts(at_most=0) if no_restart else Restarts()
    supervisor = Supervisor(server=server, restarts=restarts, say=_say)
    click.echo("Starting the server (Ctrl-C stops it) ...", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until it runs, both end it by an exception
    with ExitStack() as stack:
        stack.enter_context(server)
        _stop_at_signals(server, supervisor, stop)
        if key is not None and where is None:
            where = f"@{stack.enter_context(key_file(key))}"
        asked = read_repository(repository, explicit=model_control == "explicit").encoded
        encoded = [name for name, detector in asked.items() if detector in server.detectors]
        click.echo(
            f"Serving {repository}: {', '.join((*server.detectors, *encoded)) or 'no dyndet detector'}\n"
            f"  gRPC     {server.grpc_url}\n"
            f"  HTTP     http://{server.http_url}{' (no inference)' if no_http_inference else ''}\n"
            f"  metrics  {server.metrics_url}\n"
            f"{_admin(where)}Next: {_next(server, model_control, where)}"
        )
        for line in _other_ports(server, given):
            click.echo(line, err=True)
        if tracing is not None and (problem := tracing.problem()) is not None:
            click.echo(f"Warning: {problem}.", err=True)
        if server.memory_is_readable:
            click.echo(_READABLE, err=True)
        if not is_loopback(host):
            click.echo(_exposed(server, model_control), err=True)
        supervisor.run(stop)
        if server.running:
            seconds = f"{options.stop_timeout_s:g} s"
            click.echo(f"Stopping: requests in flight have {seconds}; Ctrl-C again kills the server at once.", err=True)
    click.echo("Stopped.", err=True)


def _note_docker_key() -> None:
    """Say what is to do before the command runs, which needs the key in the environment; nothing if it is there."""
    try:
        if key_from_environment() is None:
            click.echo(f"Set {ADMIN_VARIABLE} to a secret key before you run it: `openssl rand -hex 24`.", err=True)
    except InputError as error:
        click.echo(f"Warning: {error}. Change the key before you run the command.", err=True)


def _note_unread(repository: Path, model_control: ModelControl) -> None:
    """Name the models of others that dyndet cannot read; their server may know better."""
    from dyndet_builder.repository.rendered import read_repository

    for reason in read_repository(repository, explicit=model_control == "explicit").unread.values():
        click.echo(f"Note: {reason}; only the server can say whether it loads this model.", err=True)


def _admin_key(host: str, file: Path | None, *, open_admin: bool) -> tuple[str | None, str | None]:
    """The key of the administrative endpoints and where clients find it; a new key is nowhere yet."""
    if file is not None:
        given = read_key(file)
        if is_readable_by_others(file):
            fix = command_line(["chmod", "600", file])
            click.echo(f"Warning: other users can read the key file {printable(file)}; change that: {fix}", err=True)
        return given, f"@{file}"
    if open_admin or is_loopback(host):
        return None, None
    key = key_from_environment()
    return (new_key(), None) if key is None else (key, ADMIN_VARIABLE)


def _admin(where: str | None) -> str:
    """A line that says who can load models and change settings; empty if everybody can."""
    if where is None:
        return ""
    how = f"--admin-header {shell(where)}" if where.startswith("@") else f"the environment variable {where}"
    return f"  admin    requires the key: {how}\n"


def _next(server: TritonServer, model_control: ModelControl, where: str | None) -> str:
    """A command to go on with: a picture for a detector or, if there is none yet, a push of one."""
    if not server.detectors and model_control == "explicit":
        words = ["dyndet", "deploy", "push", "REPOSITORY", "--url", server.grpc_url, "--models", server.repository]
        key = ["--admin-header", where] if where is not None and where.startswith("@") else []
        return command_line([*words, *key])
    model = ["--model", server.detectors[0]] if server.detectors[:1] not in ((), ("dyndet",)) else []
    return command_line(["dyndet", "detect", "PICTURE...", "--url", server.grpc_url, *model])


def _stop_at_signals(server: TritonServer, supervisor: Supervisor, stop: StopRequest) -> None:
    """Let the first SIGINT or SIGTERM set `stop`, and another one kill the server."""

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set() or supervisor.starting:
            server.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)


def _say(sentence: str) -> None:
    click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence[:1].upper()}{sentence[1:]}.", err=True)


def _other_ports(server: TritonServer, given: Mapping[str, int | None]) -> list[str]:
    """A line for each usual port that another program has, so that clients need another address."""
    from dyndet_builder.server.triton import DEFAULT_PORTS

    used = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url.removesuffix("/metrics")}
    return [
        f"Note: port {DEFAULT_PORTS[kind]} is in use by another program; {kind} is on port {_port(used[kind])} instead."
        for kind, wanted in given.items()
        if wanted is None and _port(used[kind]) != str(DEFAULT_PORTS[kind])
    ]


def _exposed(server: TritonServer, model_control: ModelControl) -> str:
    control = " loading and unloading of models," if model_control == "explicit" else ""
    admin = f", the list of models,{control} registration of shared memory, log and trace settings"
    return (
        f"Warning: everybody who reaches host {server.options.host} can use, without a password: detection, metadata, "
        "configurations and statistics of the models"
        f"{admin if server.options.admin_key is None else ''} (gRPC {_port(server.grpc_url)}, HTTP "
        f"{_port(server.http_url)}), and the metrics (port {_port(server.metrics_url.removesuffix('/metrics'))}). "
        f"{RELEASES[EMBEDDED_RELEASE].warning}. Let only networks that you trust reach it."
    )


def _port(url: str) -> str:
    return url.rpartition(":")[2]
