"""The `dyndet` command: each subcommand parses, calls one public function and prints."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem, shell_complete

from dynamicdet.cores import find_cores
from dynamicdet.errors import DyndetError, InputError, ServerError
from dynamicdet.redaction import remember_words, without_secrets
from dynamicdet.text import printable
from dyndet_builder.cli.needs import explained
from dyndet_builder.cli.usage import sentence_of, with_options_named, with_our_help
from dyndet_client.cli.terminal import NobodyReadsError, printable_output

# name -> (module with a click command named `command`, one line of help). Modules load only when their command runs,
# so that `dyndet detect` starts without torch.
_COMMANDS = {
    "build": ("dyndet_builder.cli.build", "Export, render, serve, calibrate and verify in one command."),
    "inspect": ("dyndet_builder.cli.inspect", "Show what an ONNX file of a detector tells, and what it does not."),
    "info": ("dyndet_builder.cli.info", "Show parameters, GFLOPs and features of a network, or what a bundle holds."),
    "export": ("dyndet_builder.cli.export", "Export a checkpoint, or two ONNX detectors, as a bundle."),
    "compose": ("dyndet_builder.cli.compose", "Write a bundle as one ONNX file that routes itself."),
    "quantize": ("dyndet_builder.cli.quantize", "Make an int8 bundle from an fp32 bundle, and measure the cost."),
    "engines": ("dyndet_builder.cli.engines", "Build TensorRT engines, or write a script that builds them."),
    "render": ("dyndet_builder.cli.render", "Render a bundle as a Triton model repository."),
    "serve": ("dyndet_builder.cli.serve", "Serve a model repository with a Triton server on this machine."),
    "deploy": ("dyndet_builder.cli.deploy", "Render a deployment, plan replicas, push builds, roll back."),
    "calibrate": ("dyndet_builder.cli.calibrate", "Find the threshold that meets a latency target."),
    "follow": ("dyndet_builder.cli.follow", "Show or change how thresholds follow the load."),
    "tenant": ("dyndet_builder.cli.tenant", "Set what each tenant may use of detector 2."),
    "tune": ("dyndet_builder.cli.tune", "Find the fastest instances, threads and batching for a load."),
    "verify": ("dyndet_builder.cli.verify", "Check a detector on this machine before traffic comes."),
    "bench": ("dyndet_builder.cli.bench.group", "Measure a served detector."),
    "detect": ("dyndet_client.cli.detect", "Detect objects in images through a server."),
    "try": ("dyndet_builder.cli.try_", "Open a page to try a detector with your own pictures."),
    "pair": ("dyndet_builder.cli.pair", "Measure whether routing between two ONNX detectors pays."),
    "train": ("dyndet_builder.cli.train.group", "Train the detectors, then the router."),
    "evaluate": ("dyndet_builder.cli.evaluate", "Measure COCO average precision of both routes and of mixes."),
    "data": ("dyndet_builder.cli.data", "Build and check data sets of real images."),
    "doctor": ("dyndet_builder.cli.doctor", "Show what is installed here, and how to install what is missing."),
    "demo": ("dyndet_builder.cli.demo", "Build, serve and try the demo model."),
}
_DEBUG = "dyndet_builder.debug"
_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _LazyGroup(click.Group):
    """A group that imports a subcommand's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return with_our_help(_with_debug(_load(cmd_name)))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and help of commands from the table, for which no module is loaded; click's own does the options."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _load(name: str) -> click.Command:
    command: click.Command = importlib.import_module(_COMMANDS[name][0]).command
    return command


def _remember_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = ctx.meta.get(_DEBUG, False) or value


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_remember_debug, help="Show the traceback of an error."
    )


def _with_debug(command: click.Command) -> click.Command:
    if not any(parameter.name == "debug" for parameter in command.params):
        command.params.append(_debug_option())
    if isinstance(command, click.Group):
        for sub in command.commands.values():
            _with_debug(sub)
    return command


@click.group(cls=_LazyGroup, context_settings=_SETTINGS, params=[_debug_option()])
@click.version_option(package_name="dyndet", prog_name="dyndet")
def dyndet() -> None:
    """Deploy dynamic object detectors on Triton Inference Server, within a latency target.

    Start with `dyndet doctor`, then `dyndet demo`.
    """


with_our_help(dyndet)


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a click command and return its exit status; an expected error prints one sentence, a bug names `--debug`.

    Only printable characters reach the terminal, whatever files, servers and arguments contain.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    remember_words(words)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # so that temporary files go, as on Ctrl-C
    with printable_output():
        try:
            result = command.main(args=words, prog_name=command.name, standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()
            return result if isinstance(result, int) else 0
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except (click.Abort, KeyboardInterrupt):
            _say("Stopped.")
            return 130
        except click.ClickException as error:
            return _show(error)
        except NobodyReadsError:
            _forget_unwritten()
            return 141
        except Exception as error:
            _forget_unwritten()
            if "--debug" in words:
                _say(without_secrets(traceback.format_exc()).rstrip())
            error = explained(error, words if command is dyndet else ["build"])
            label = error.label if isinstance(error, DyndetError) else "Error"
            sentence, status = _told(error)
            if isinstance(error, InputError):
                sentence = with_options_named(sentence, command, words)
            _say(f"{label}: {printable(sentence)}")
            return status


def _say(text: str) -> None:
    """Print on standard error; where even that fails, the exit status says enough."""
    with suppress(OSError, NobodyReadsError):
        click.echo(text, err=True)


def _forget_unwritten() -> None:
    """Drop what cannot be written, say to a full disk; Python would try it again at its end, and change the status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, NobodyReadsError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):  # there is none, or it is closed
            pass


def _show(error: click.ClickException) -> int:
    """Print what was wrong with the command line, which repeats arguments, and return the exit status."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _say(error.format_message())
    else:
        _say(f"Error: {printable(without_secrets(sentence_of(error)))}")
    return error.exit_code


def _told(error: Exception) -> tuple[str, int]:
    """The sentence and the exit status of an error."""
    text = without_secrets(error)
    if isinstance(error, DyndetError):
        return text, error.exit_code
    if isinstance(error, ConnectionError | TimeoutError):
        return without_secrets(f"the connection failed: {error.strerror or error}"), ServerError.exit_code
    if isinstance(error, OSError):
        where = f"cannot use {error.filename}" if error.filename else "a file cannot be read or written"
        return without_secrets(f"{where}: {error.strerror or error}"), InputError.exit_code
    line = text.strip().partition("\n")[0]
    return f"{type(error).__name__}: {line} (this is a bug in dyndet; `--debug` shows where)", 70


def _terminate(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _complete(command: click.Command, name: str) -> None:
    """Answer a shell that completes what is typed, and exit; its texts are all ours. docs/install.md installs it."""
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    if instruction := os.environ.get(variable):
        sys.exit(shell_complete(command, {}, name, variable, instruction))


def _keep_to_quota() -> None:
    """Let numerical libraries start no more threads than this process may use: they know its affinity, not its quota.

    They read the variable when they are loaded, as PyTorch does; so do those of a server that is started.
    """
    cores = find_cores()
    if cores.usable < cores.affinity:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores.usable))


def main() -> None:
    """Entry point of `dyndet`."""
    _complete(dyndet, "dyndet")
    _keep_to_quota()
    sys.exit(run(dyndet))


def build_main() -> None:
    """Entry point of `dyndet-build`."""
    command = _with_debug(_load("build"))
    command.name = "dyndet-build"
    command.context_settings = _SETTINGS
    click.version_option(package_name="dyndet", prog_name="dyndet-build")(command)
    _complete(command, "dyndet-build")
    _keep_to_quota()
    sys.exit(run(command))
