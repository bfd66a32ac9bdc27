"""Reads JSON files that others may have written: every field has a type, a pattern or a range, and every file a size.

The types here are for the fields of such records. They accept what dyndet itself writes, and nothing that could mean
something to a shell, a path, a terminal or a template.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from dynamicdet.errors import InputError
from dynamicdet.text import printable

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
"""pattern of names: of detectors, models, tensors, operating points, and of files without a folder"""

LARGEST = 64 << 20
"""bytes; larger files are not read"""


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("the text has characters that cannot be printed")
    return text


Name = Annotated[str, StringConstraints(pattern=NAME, max_length=200)]
"""a name that is also safe as a file name"""
FileName = Annotated[str, StringConstraints(pattern=NAME, max_length=200)]
"""a file or folder beside the record, without a path"""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""64 hexadecimal digits"""
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+!-]+$", max_length=100)]
"""of a package or a program"""
Label = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_printable)]
"""a short printable text, such as a class name"""
Text = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_check_printable)]
"""a printable text, such as a command or a warning"""
Count = Annotated[int, Field(ge=0, le=10**12)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
"""a finite number above 0: milliseconds, images per second"""
Finite = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""a share, a threshold or a difficulty"""


class Record(BaseModel):
    """Base of the records in files: frozen; unknown fields and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Read = TypeVar("Read", bound=BaseModel)


def read_record(path: Path, kind: type[Read], *, described: str, advice: str, largest: int = LARGEST) -> Read:
    """Read a record from a JSON file that others may have written.

    `described` says what the file should be ("a bundle of schema version 1"), `advice` what to do if it is not. Raises
    InputError, in one sentence of printable characters, if the file is missing, not a regular file, larger than
    `largest` bytes, or if its content does not fit `kind`.
    """
    content = read_bytes(path, advice=advice, largest=largest)
    try:
        return kind.model_validate_json(content, strict=True)
    except (ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)} is not {described}: {reason_of(error)}; {advice}") from error


def read_bytes(path: Path, *, advice: str, largest: int = LARGEST) -> bytes:
    """The content of a file that others may have written.

    Raises InputError, with `advice`, if it is missing, not a regular file (a pipe would block for ever), unreadable, or
    larger than `largest` bytes.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{printable(path)} is not a regular file; {advice}")
        if found.st_size > largest:
            raise InputError(
                f"{printable(path)} is too large: it has {found.st_size:,} bytes, and at most {largest:,} are read; "
                f"{advice}"
            )
        with path.open("rb") as file:
            return file.read(largest + 1)[:largest]
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{printable(path)} cannot be read: {printable(reason)}; {advice}") from error


def reason_of(error: Exception) -> str:
    """Why content was refused, for a message: the first fault and its place, printable and short."""
    if not isinstance(error, ValidationError):
        return printable(str(error) or type(error).__name__, limit=300)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return printable(f"{place}: {first['msg']}", limit=300)


def inside(folder: Path, name: str) -> Path:
    """The file or folder `name` in a folder that others wrote.

    Raises InputError if the name is not a bare one, or if it is a link that leaves the folder.
    """
    path = folder / name
    if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise InputError(f"{printable(name)!r} is not the name of a file in {printable(folder)}")
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{printable(path)} is a link that leaves its folder; put the file itself there")
    return path
