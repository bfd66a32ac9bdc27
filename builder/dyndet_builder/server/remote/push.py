"""Puts a new build of a detector beside the running one, switches to it, and removes the old one.

1. Remove what a push that was killed has left.
2. Put the new build's stage models and its public model, named NAME_next, beside the running ones; load and probe them.
3. Give the caller NAME_next, to compare or calibrate it.
4. Store the running build in an archive, for the way back.
5. Let the folders NAME and NAME_next trade places, and load NAME in place: Triton answers with the old one until the
   new one is ready.
6. When the old build's stage models are idle, unload and remove them.

Until step 5 nobody uses what is put there, so an error removes it. A failure in step 5 is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import DyndetError, InputError, ServerError
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.operating_points import content_of_points
from dyndet_builder.server.remote.contract import check_contract, contract_of
from dyndet_builder.server.remote.folder import Folder
from dyndet_builder.server.remote.models import (
    PUSH_PARAMETER,
    Models,
    Slot,
    adopt,
    archive,
    call,
    copy_model,
    digest,
    next_of,
    push_of,
    read_config,
    read_source,
    rewrite,
    slot_of,
    stage_name,
)
from dyndet_builder.server.remote.place import Place
from dyndet_builder.server.remote.probe import probe, probe_encoded
from dyndet_builder.server.remote.storage import CONFIG, Storage
from dyndet_client.errors import ServerUnreachableError

_LONGEST_DRAIN_S = 600.0
_QUIET_ANSWERS = 10
"""an old stage is idle after this many times its slowest answer, or after `settle_s` if that is longer"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A new build that is loaded, warm and probed beside the running one; no client knows it yet."""

    url: str
    metrics_url: str | None
    model: str
    """name under which it answers until the switch"""
    live: str | None
    """name of the running build; None if none is running"""
    use_points: Callable[[Path], None]
    """gives it a file of operating points, which stays in force after the switch"""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What a push has done."""

    models: tuple[str, ...]
    """names of all models of the build, the public detector last"""
    can_roll_back: bool
    """whether the build before is stored"""
    notes: tuple[str, ...] = ()
    """what a person should know, one sentence each"""


class Push:
    """Pushes to one detector of one server."""

    def __init__(
        self,
        place: Place,
        *,
        metrics_url: str | None = None,
        wait_s: float = 60.0,
        settle_s: float = 3.0,
        change_contract: bool = False,
        progress: Progress = silent,
    ) -> None:
        self._place = place
        self._metrics_url = metrics_url
        self._wait_s = wait_s
        self._settle_s = settle_s
        self._change_contract = change_contract
        self._progress = progress

    def build(self, repository: Path, before_switch: Callable[[Candidate], None]) -> Deployed:
        """Push a repository's build."""
        with self._alone():
            return self._push(Folder(repository), before_switch)

    def back(self, before_switch: Callable[[Candidate], None]) -> Deployed:
        """Push the build that was replaced last; the running one takes its place in the archive."""
        with self._alone():
            if self._place.archive_name not in self._place.storage.files():
                raise InputError(
                    f"{self._place.storage.where} holds no earlier build of {self._place.detector!r}; "
                    "`dyndet deploy push` stores the build that it replaces"
                )
            with self._place.unpacked(self._place.archive_name) as folder:
                source = Folder(folder)
                source.where = f"{self._place.storage.where}/{self._place.archive_name}"
                return self._push(source, before_switch)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        busy = f"another push of {self._place.detector!r} to {self._place.storage.where} is running"
        with self._place.storage.lock(f".{self._place.detector}.lock", wait_s=self._wait_s, busy=busy):
            self._place.recover()
            yield

    def _push(self, source: Folder, before_switch: Callable[[Candidate], None]) -> Deployed:
        live = self._place.live()
        new = self._named(source, live)
        if not self._change_contract:
            self._check_contract(source)
        self._check_free(new)
        running = self._place.control.is_ready(self._place.detector)
        try:
            with self._explained(running=running):
                self._step(0)
                self._put_beside(source, new)
                self._step(1)
                slowest_s = self._load_beside(new)
            self._step(2)
            before_switch(self._candidate(new, running=running))
            with self._explained(running=running):
                pending = self._store(live, new)
                self._step(3)
                self._switch(new, pending)
        except BaseException:
            with suppress(DyndetError):  # the next push tries again
                self._place.recover()
            raise
        lost = self._lost(live, pending)
        self._step(4)
        notes = self._remove_old(live, new, quiet_s=max(self._settle_s, _QUIET_ANSWERS * slowest_s))
        self._step(5)
        switched = new.switched()
        return Deployed(
            models=(*(name for name in switched.names if name != switched.public), switched.public),
            can_roll_back=not lost and self._place.archive_name in self._place.storage.files(),
            notes=(*lost, *notes),
        )

    def _named(self, source: Folder, live: Models | None) -> Models:
        """The models of the new build under the names that they get beside the running one."""
        given = read_source(source, self._place.detector)
        return given.beside(f"{digest(source, given)[:12]}-{self._free_slot(live)}")

    def _free_slot(self, live: Models | None) -> Slot:
        """The slot that neither the build in the folder nor the one in the server's memory uses."""
        loaded = self._place.control.parameters(self._place.detector)
        used: set[Slot] = set()
        if live is not None and (live.damaged is None or live.push):
            used.add(slot_of(live.push))
        elif live is not None and loaded is None:  # its configuration does not tell
            in_b = any(name == stage_name(live.detector, stage, "b") for stage, name in live.stages.items())
            used.add("b" if in_b else "a")
        if loaded is not None:
            used.add(slot_of(loaded.get(PUSH_PARAMETER, "")))
        if len(used) == 2:
            raise InputError(
                f"the server at {self._place.control.url} runs another build of {self._place.detector!r} than the one "
                f"in {self._place.storage.where}; load that one, or unload the model, and push again"
            )
        return "b" if "a" in used else "a"

    def _check_contract(self, source: Storage) -> None:
        """Raise InputError if clients of the build in use could not use the new one."""
        detector = self._place.detector
        live = self._place.control.config(detector) or read_config(self._place.storage, detector)
        new = read_config(source, detector)
        check_contract(
            detector,
            live=None if live is None else contract_of(live),
            new=None if new is None else contract_of(new),
        )

    def _check_free(self, new: Models) -> None:
        for name in new.names:
            if self._place.storage.is_taken(name):
                is_model = self._place.storage.read(f"{name}/{CONFIG}") is not None
                what = f"a model {name!r}" if is_model else f"{name!r}, which is not a model"
                raise InputError(
                    f"{self._place.storage.where} already holds {what}, a name that a push of "
                    f"{self._place.detector!r} needs; rename or remove it"
                )

    def _put_beside(self, source: Folder, new: Models) -> None:
        given = read_source(source, self._place.detector)
        with self._place.storage.staging(self._place.detector) as staging:
            for name, own in zip(given.names, new.names, strict=True):
                copy_model(source, name, staging / own)
                rewrite(staging / own, new)
                self._place.storage.place(staging / own, own)

    def _load_beside(self, new: Models) -> float:
        """Load and probe the new build; returns its slowest answer, seconds."""
        try:
            self._place.control.load(*new.stages.values())
            self._place.control.load(new.public)
        except ServerError as error:
            if "failed to poll" not in str(error):
                raise
            raise ServerError(
                f"the server at {self._place.control.url} does not find {new.names[0]!r} in its model folder; is "
                f"{self._place.storage.where} the folder that it reads? If it is, the server's log says why"
            ) from error
        slowest_s = probe(self._place.control.url, new.public, metrics_url=self._metrics_url)
        if new.encoded is not None:
            self._place.control.load(new.encoded)
            probe_encoded(self._place.control.url, new.encoded)
        return slowest_s

    def _candidate(self, new: Models, *, running: bool) -> Candidate:
        def use_points(file: Path) -> None:
            self._place.storage.write(f"{new.public}/1/{POINTS_FILE}", content_of_points(file))
            if not self._place.storage.trades_places:  # the server works on a copy
                self._place.control.load(new.public)

        return Candidate(
            url=self._place.control.url,
            metrics_url=self._metrics_url,
            model=new.public,
            live=self._place.detector if running else None,
            use_points=use_points,
        )

    def _store(self, live: Models | None, new: Models) -> str | None:
        """Store the running build in an archive that counts as soon as `new` has taken its place."""
        if live is None or live.damaged is not None:
            return None
        name = self._place.pending_name(new.push)
        with self._place.storage.writing(name) as file:
            archive(self._place.storage, live, file)
        return name

    def _lost(self, live: Models | None, pending: str | None) -> tuple[str, ...]:
        """Store the replaced build for the way back; if that is not possible, return why: the new one is in use."""
        if live is not None and live.damaged is not None:
            return (f"the build before is not stored, because it was not whole: {live.damaged}",)
        if pending is not None and (error := self._place.keep(pending)) is not None:
            return (f"the new build is in use; the build before could not be stored: {error}",)
        return ()

    def _switch(self, new: Models, pending: str | None) -> None:
        """Switch the public model and the one that takes image files; if anything fails, switch back."""
        switched = new.switched()
        names = [switched.public] if switched.encoded is None else [switched.public, switched.encoded]
        before = {name: self._place.loaded_push(name) for name in names}
        self._place.control.unload([next_of(name) for name in reversed(names)])  # two copies in memory, not three
        try:
            if switched.encoded is not None:
                call(self._place.storage, next_of(switched.encoded), switched)
            for name in names:
                adopt(self._place.storage, name, self._place.detector)
                self._place.storage.replace(name, next_of(name))
                self._place.control.load(name)
                if self._place.loaded_push(name) != new.push:
                    raise ServerError(f"the server at {self._place.control.url} did not load the new {name!r}")
            probe(self._place.control.url, switched.public, metrics_url=self._metrics_url)
            if switched.encoded is not None:
                probe_encoded(self._place.control.url, switched.encoded)
        except BaseException:
            for name in reversed(names):
                self._switch_back(name, new.push, before[name], pending)
            raise

    def _switch_back(self, name: str, push: str, before: str | None, pending: str | None) -> None:
        """Give a model the files that it had, and the server the build that it had in memory, where they changed."""
        if push_of(self._place.storage, name) == push:
            self._place.put_back(name, pending)
        if self._place.loaded_push(name) != before:
            if before is None:
                self._place.control.unload([name])
            else:
                self._place.control.load(name)

    def _remove_old(self, live: Models | None, new: Models, *, quiet_s: float) -> tuple[str, ...]:
        """Remove the replaced build as soon as no request needs it; returns what a person should know about it."""
        notes = []
        if live is not None:
            if live.encoded is not None and new.encoded is None:
                notes.append(f"{live.encoded} of the build before stays, because the new build has no such model")
        try:
            if live is not None:
                self._place.control.wait_until_idle(
                    tuple(live.stages.values()), quiet_s=quiet_s, longest_s=_LONGEST_DRAIN_S
                )
            self._place.remove_leftovers()
        except DyndetError as error:
            notes.append(f"the build before was not removed completely, which the next push tries again: {error}")
        return tuple(notes)

    @contextmanager
    def _explained(self, *, running: bool) -> Iterator[None]:
        """Say in an error what is in use now."""
        now = f"the running build of {self._place.detector!r} stays in use" if running else "nothing was in use before"
        try:
            yield
        except ServerUnreachableError:
            raise
        except (InputError, ServerError) as error:
            raise type(error)(f"{error}; {now}, and what was put there is removed") from error

    def _step(self, number: int) -> None:
        self._progress(f"push {self._place.detector}", number, 5)
