"""One tab of the page: what happens when its user acts. `Tab` has the state, `View` the elements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nicegui import ui

from dynamicdet.errors import DyndetError, InputError
from dyndet_builder.trying import markup
from dyndet_builder.trying.asking import AWAY
from dyndet_builder.trying.intake import Picture, read_sample, read_upload
from dyndet_builder.trying.subject import Subject
from dyndet_builder.trying.tab import Shot, Tab
from dyndet_builder.trying.view import OWN_THRESHOLD, THRESHOLD_STEP, Actions, View

_LOOK_S = 0.3


class TryPage:
    """The page in one tab of a browser; made while NiceGUI builds the page."""

    def __init__(self, subject: Subject, token: str, *, decoding: asyncio.Semaphore) -> None:
        self.tab = Tab(calibration=subject.calibration)
        self._subject, self._asker, self._decoding = subject, subject.asker, decoding
        self.receiving = asyncio.Lock()
        """one file at a time comes in"""
        self._waiting: tuple[Picture, bool] | None = None
        """the picture for which the server was away, and whether it comes from the camera"""
        actions = Actions(
            move_threshold=self._move_threshold,
            choose_point=self._choose_point,
            move_score=self._move_score,
            try_sample=self._try_sample,
            try_samples=self._try_samples,
            show_again=self._show_again,
            forget=self._forget,
        )
        model, address = (markup.text(one, limit=100) for one in (subject.model, subject.address))
        about = f"<b>{model}</b> on {address}"
        self._view = View(self.tab, actions, subject=about, token=token, samples=subject.samples)
        self._problem: str | None = None
        ui.timer(_LOOK_S, self._look)
        ui.timer(0, self._begin, once=True)

    async def take(self, data: bytes, name: str, *, from_camera: bool = False) -> bool:
        """Show both answers for a file that the browser sent; False if there are none, and the page says why."""
        return await self._read_and_ask(partial(read_upload, data, name), from_camera=from_camera)

    def refuse(self, error: DyndetError) -> None:
        """Say what is wrong with a picture."""
        self._view.show_note(str(error))

    async def _begin(self) -> None:
        """Show a sample, so that there is something to look at, or at least whether the server answers."""
        if self._subject.samples:
            await self._try_sample(self._subject.samples[0])
        else:
            await self._asker.look()

    async def _read_and_ask(self, read: Callable[[], Picture], *, from_camera: bool = False) -> bool:
        try:
            async with self._decoding:
                picture = await asyncio.to_thread(read)
        except InputError as error:
            self.refuse(error)
            return False
        self._view.show_note("")
        return await self._ask(picture, from_camera=from_camera)

    async def _ask(self, picture: Picture, *, from_camera: bool) -> bool:
        self._waiting = None
        try:
            answers = await self._asker.ask(picture.pixels)
        except AWAY:
            self._waiting = (picture, from_camera)
            self._show_problem()
            return False
        except DyndetError as error:
            self.refuse(error)
            return False
        self._learn()
        self.tab.add(picture, answers, from_camera=from_camera)
        self._view.show_picture()
        if not from_camera:
            self._view.show_strip()
        return True

    async def _look(self) -> None:
        """Follow the state of the server; when it is back, ask again what it did not answer."""
        self._learn()
        if self._asker.problem == self._problem:
            return
        self._show_problem()
        if self._problem is None and self._waiting is not None:
            picture, from_camera = self._waiting
            await self._ask(picture, from_camera=from_camera)

    def _learn(self) -> None:
        points = self._asker.points
        if points is not None and points != self.tab.points:
            self.tab.learn(points)
            self._view.show_points()

    def _show_problem(self) -> None:
        self._problem = self._asker.problem
        self._view.show_problem(self._problem)

    def _move_threshold(self, threshold: float) -> None:
        if abs(threshold - self.tab.threshold) > THRESHOLD_STEP / 2:  # else the page itself moved it
            self.tab.choose_threshold(threshold)
            self._view.show_threshold()

    def _choose_point(self, name: str) -> None:
        if name not in (OWN_THRESHOLD, self.tab.point):
            self.tab.choose_point(name)
            self._view.show_threshold()
        elif name == OWN_THRESHOLD and self.tab.point is not None:
            self.tab.choose_threshold(self.tab.threshold)
            self._view.show_threshold()

    def _move_score(self, score: float) -> None:
        self.tab.min_score = score
        self._view.show_boxes()

    async def _try_sample(self, path: Path) -> bool:
        return await self._read_and_ask(partial(read_sample, path))

    async def _try_samples(self) -> None:
        for done, path in enumerate(self._subject.samples):
            self._view.show_progress(done, len(self._subject.samples))
            if not await self._try_sample(path) and self._problem is not None:
                break
        self._view.show_progress(None, 0)

    def _show_again(self, shot: Shot) -> None:
        self.tab.current = shot
        self._view.show_picture()

    def _forget(self) -> None:
        self.tab.forget()
        self._view.show_picture()
        self._view.show_strip()
