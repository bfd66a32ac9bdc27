"""Leaves secrets out of texts: messages, tracebacks, and the command lines in records. Only the standard library.

A secret is a password or a key in a URL, the value of an option that takes one, or a text that the program was given as
a secret. What was given once is remembered, so that it is also hidden in the words of other packages.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Sequence

HIDDEN = "***"
"""what stands in the place of a secret"""

ADMIN_VARIABLE = "DYNDET_ADMIN_KEY"
"""environment variable with the key of a server's administrative endpoints"""
TOKEN_VARIABLE = "DYNDET_TOKEN"
"""environment variable with a client's bearer token"""

# A user's part ends at the last @, since passwords and keys can contain a slash or another @.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S*)@")
_USER_OF_ADDRESS = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)(.*)@", re.DOTALL)
_DIGEST = re.compile(r"@sha[0-9]{3}:[0-9a-f]{32,128}\Z")
_QUERY = re.compile(
    r"([?&][\w.-]*(?:token|key|secret|passw|pwd|signature|sig|credential|auth)[\w.-]*=)([^&#\s'\"]+)", re.IGNORECASE
)
_OPTIONS = ("--admin-header", "--header", "--token")
_HEADER = re.compile(r"([0-9A-Za-z_.-]+\s*:)\s*(.*)", re.DOTALL)
_VARIABLES = (
    ADMIN_VARIABLE,
    TOKEN_VARIABLE,
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)
_LEAST = 6
"""characters; a shorter text could be a part of any other"""

_remembered: set[str] = set()


def remember_secret(text: str | None) -> None:
    """Hide this text from now on in `without_secrets`, and its last word alone; not one of a few characters."""
    for secret in () if text is None or not text.strip() else (text.strip(), text.split()[-1]):
        if len(secret) >= _LEAST:
            _remembered.add(secret)


def remember_words(words: Sequence[str]) -> None:
    """Remember the secrets in a command line, and nothing else."""
    _remembered.clear()
    for word, value in _values(words):
        if value is not None and not value.startswith("@"):
            header = _HEADER.fullmatch(value)
            remember_secret(header[2] if header else value)
        for _, user in _USER.findall(word):
            password = user.partition(":")[2]
            remember_secret(password)
            remember_secret(urllib.parse.unquote(password))
        for _, secret in _QUERY.findall(word):
            remember_secret(secret)


def without_secrets(text: object) -> str:
    """The text without users, passwords and keys in URLs, and without everything that was remembered.

    >>> without_secrets("https://me:word@host/models?token=abc&x=1 is gone")
    'https://***@host/models?token=***&x=1 is gone'
    """
    shown = str(text)
    known = _remembered | {value for name in _VARIABLES if len(value := os.environ.get(name, "")) >= _LEAST}
    for secret in sorted(known, key=len, reverse=True):
        shown = shown.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", shown))


def public_address(url: str) -> str:
    """An address or URL without a user and a password, also if it is none that could be used.

    >>> public_address("me:my word@host:8001"), public_address("host:8001")
    ('***@host:8001', 'host:8001')
    """
    return without_secrets(_USER_OF_ADDRESS.sub(rf"\1{HIDDEN}@", url, count=1))


def public_image(image: str) -> str:
    """A reference to a container image without a user and a password. Its digest, also behind an @, stays.

    >>> public_image("me:word@registry.example/a:1"), public_image(f"a@sha256:{32 * '0'}")
    ('***@registry.example/a:1', 'a@sha256:00000000000000000000000000000000')
    """
    name = _DIGEST.sub("", image)
    return public_address(name) + image[len(name) :]


def has_secrets(url: str) -> bool:
    """Whether an address or URL contains a user, a password or a key."""
    return public_address(url) != url


def public_words(words: Sequence[str]) -> list[str]:
    """The words of a command line without the values of options that take secrets. A header's name stays.

    >>> public_words(["detect", "--token", "abc", "--header=team: yellow", "a.jpg"])
    ['detect', '--token', '***', '--header=team: ***', 'a.jpg']
    """
    shown = []
    for word, value in _values(words):
        if value is None:
            shown.append(without_secrets(word))
        elif value.startswith("@"):  # the name of a file
            shown.append(word)
        else:
            header = _HEADER.fullmatch(value)
            shown.append(word.removesuffix(value) + (f"{header[1]} {HIDDEN}" if header else HIDDEN))
    return shown


def _values(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each word, and the value of an option that takes a secret where it holds one."""
    found: list[tuple[str, str | None]] = []
    is_value = False
    for word in words:
        option, equals, value = word.partition("=")
        if is_value:
            found.append((word, word))
        else:
            found.append((word, value if equals and option in _OPTIONS else None))
        is_value = not is_value and word in _OPTIONS
    return found
