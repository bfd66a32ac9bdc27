"""The command that can serve a repository, for the line that says what to do next."""

from __future__ import annotations

from pathlib import Path

from dyndet_builder.quoting import command as command_line


def serve_command(repository: Path, *more: str) -> str:
    """The command that serves a repository: on this machine, if the embedded server has what its models need.

    Otherwise it prints how NVIDIA's image serves it; `more` are arguments that only a server here takes.
    """
    from dyndet_builder.repository.rendered import read_repository

    where = more if read_repository(repository).runs_embedded else ("--docker",)
    return command_line(["dyndet", "serve", repository, *where])
