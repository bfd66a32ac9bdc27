"""`dyndet serve`."""

from __future__ import annotations

import shlex
import signal
import threading
from pathlib import Path
from types import FrameType

import click

from dynamicdet.errors import ServerError
from dyndet_builder.repository.rendered import read_repository
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.options import MODEL_CONTROLS, ModelControl, ServerOptions
from dyndet_builder.server.triton import DEFAULT_PORTS, TritonServer

_POLL_S = 0.3


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
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 listens on every network."
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
@click.option("--docker", is_flag=True, help="Print a docker command for NVIDIA's image, and start nothing.")
@click.option(
    "--gpu",
    "gpus",
    type=click.IntRange(0),
    multiple=True,
    help="With --docker: prepare the server for models on this GPU (repeatable).  [default: the GPUs that the models "
    "name; with --model-control explicit, all GPUs of this machine]",
)
def command(
    repository: Path,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
    host: str,
    log_file: Path | None,
    log_verbose: int,
    model_control: ModelControl,
    docker: bool,
    gpus: tuple[int, ...],
) -> None:
    """Serve a model repository on this machine with the embedded Triton server until Ctrl-C.

    A server has 20 s to stop and is killed after that. The environment variable DYNDET_STOP_TIMEOUT_S sets another
    number of seconds, for every command that starts a server.

    \b
    Examples:
      dyndet serve build/models
      dyndet serve build/models --grpc-port 9001 --log-file server.log
      dyndet serve build/models --docker
      dyndet serve /mnt/models --docker --model-control explicit --gpu 0
    """
    given = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
    if docker:
        ports = {kind: port or DEFAULT_PORTS[kind] for kind, port in given.items()}
        words = docker_command(repository, ports=ports, host=host, model_control=model_control, gpus=gpus)
        click.echo(shlex.join(words))
        return
    if gpus:
        raise click.UsageError("--gpu belongs to --docker: the embedded server uses the GPUs that its models name")
    stop = threading.Event()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    options = ServerOptions(
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        prefer_default_ports=True,
        host=host,
        log_file=log_file,
        log_verbose=log_verbose,
        model_control=model_control,
    )
    server = TritonServer(repository, options)
    click.echo("Starting the server (Ctrl-C stops it) ...", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until it runs, both end it by an exception
    with server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask_to_stop)
        asked = read_repository(repository, explicit=model_control == "explicit").encoded
        encoded = [name for name, detector in asked.items() if detector in server.detectors]
        click.echo(
            f"Serving {repository}: {', '.join((*server.detectors, *encoded)) or 'no dyndet detector'}\n"
            f"  gRPC     {server.grpc_url}\n"
            f"  HTTP     http://{server.http_url}\n"
            f"  metrics  {server.metrics_url}\n"
            f"Next: dyndet detect PICTURE... --url {server.grpc_url}"
            + (f" --model {server.detectors[0]}" if server.detectors[:1] not in ((), ("dyndet",)) else "")
        )
        while not stop.wait(_POLL_S):
            if not server.running:
                raise ServerError("; ".join(["the server died", *server.error_lines()[:3]]))
    click.echo("Stopped.", err=True)
