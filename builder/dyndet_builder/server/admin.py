"""The administrative endpoints of a server, and the key that opens them.

Triton takes the key only as part of a flag, so whoever may list the processes of the server's machine or container can
read it there. Everything before that passes the name of an environment variable, not the key.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.redaction import ADMIN_VARIABLE as ADMIN_VARIABLE
from dynamicdet.redaction import remember_secret

ADMIN_HEADER = "dyndet-admin"
"""header in which a server expects the admin key"""
GRPC_PREFIX = "triton-grpc-protocol-"
"""prefix that Triton expects in the name of this header over gRPC"""
RESTRICTED = ("model-repository", "logging", "trace")
"""endpoints that no client needs; health, metadata, configuration, statistics and inference stay open"""
SHARED_MEMORY = "shared-memory"
"""the endpoints with which clients let the server map their memory"""
INFERENCE = "inference"
"""the endpoints that answer requests, over HTTP: Triton 2.51 ends there on a request that claims a huge shape"""
INFERENCE_HEADER = "dyndet-inference"
"""header with the key for inference over HTTP of a server that has no administrative key"""
KEY_REFERENCE = f"$({ADMIN_VARIABLE})"
"""stands for the key in `restricting_arguments`, as Kubernetes expands it"""

_LEAST, _MOST = 16, 500  # characters
_CHARACTERS = "[A-Za-z0-9._~+/=-]"  # mean nothing to a shell or to Triton's flags
_KEY = re.compile(f"{_CHARACTERS}{{{_LEAST},{_MOST}}}")
_MOST_BYTES = 4096


def restricting_arguments(endpoints: Sequence[str], *, over_http: Sequence[str] = ()) -> tuple[str, str]:
    """Triton's flags that make these endpoints require the key; `KEY_REFERENCE` stands for it.

    `over_http` are further ones that need it over HTTP alone.
    """
    key = f"{ADMIN_HEADER}={KEY_REFERENCE}"
    over_grpc = ",".join(endpoints)
    return (
        f"--http-restricted-api={','.join((*endpoints, *over_http))}:{key}",
        f"--grpc-restricted-protocol={over_grpc}:{key}",
    )


def closing_argument(key: str) -> str:
    """Triton's flag that closes inference over HTTP to all who do not know this key, before a request is read."""
    return f"--http-restricted-api={INFERENCE}:{INFERENCE_HEADER}={key}"


def with_key_from_shell(argument: str) -> str:
    """The argument for a shell's double quotes, with the key from the shell's environment; without a key it fails."""
    return argument.replace(KEY_REFERENCE, f"${{{ADMIN_VARIABLE}:?is not set}}")


def http_headers(key: str | None) -> dict[str, str]:
    """The header that opens the administrative endpoints over HTTP; none without a key."""
    return {ADMIN_HEADER: key} if key else {}


def grpc_headers(key: str | None) -> dict[str, str]:
    """The header that opens the administrative endpoints over gRPC; none without a key."""
    return {GRPC_PREFIX + ADMIN_HEADER: key} if key else {}


def admin_headers() -> dict[str, str]:
    """The gRPC header that a server of `dyndet deploy` requires to load models, with the key from the environment."""
    return grpc_headers(os.environ.get(ADMIN_VARIABLE))


def restricted_headers(given: Mapping[str, str]) -> dict[str, str]:
    """Headers as gRPC needs them: each also under Triton's prefix, so that a header can be given as it is over HTTP."""
    prefixed = {name if name.lower().startswith(GRPC_PREFIX) else GRPC_PREFIX + name: given[name] for name in given}
    return {name.lower(): value for name, value in {**prefixed, **given}.items()}


def check_key(key: str, where: str) -> str:
    """The key itself. Raises InputError, which does not show it, if it is short or not fit for Triton's flags."""
    remember_secret(key)
    if not _KEY.fullmatch(key):
        raise InputError(
            f"the admin key in {where} {_fault_of(key)}; use {_LEAST} to {_MOST} letters, digits and . _ ~ + / = -, "
            "such as `openssl rand -hex 24` makes"
        )
    return key


def _fault_of(key: str) -> str:
    if not key:
        return "is empty"
    if re.search(r"\s", key):
        return "has spaces or line breaks"
    if not re.fullmatch(_CHARACTERS + "+", key):
        return "has characters that are not accepted"
    return f"has {len(key)} characters" if len(key) <= _MOST else f"has more than {_MOST} characters"


def read_key(path: Path) -> str:
    """The key in a file. Raises InputError if the file cannot be read or holds no key that is accepted."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"the key file {path} cannot be read ({error.strerror}); give another one") from error
    return check_key(content.decode("ascii", errors="replace").strip(), str(path))


def is_readable_by_others(path: Path) -> bool:
    """Whether the mode of a file lets its group or all users read it."""
    return bool(path.stat().st_mode & 0o044)


def key_from_environment() -> str | None:
    """The key in `ADMIN_VARIABLE`; None if it is not set. Raises InputError if it is not accepted."""
    key = os.environ.get(ADMIN_VARIABLE)
    return check_key(key, ADMIN_VARIABLE) if key else None


def new_key() -> str:
    """A random key."""
    return check_key(secrets.token_hex(24), "a new key")


@contextmanager
def key_file(key: str) -> Iterator[Path]:
    """A file with the key that only this user can read; it is removed afterwards."""
    descriptor, name = tempfile.mkstemp(prefix="dyndet-admin-", suffix=".key")  # with mode 0600
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key}\n")
        yield path
    finally:
        path.unlink(missing_ok=True)
