"""The state of one tab of a browser: its settings, and the last pictures with the answers of both routes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dyndet_builder.trying.asking import Answers
from dyndet_builder.trying.history import Numbers, Seen, counted, numbers, surest
from dyndet_builder.trying.intake import Picture
from dyndet_builder.trying.points import Calibration, Points, Promise

MOST_SEEN = 500
"""pictures, frames of a camera included, whose numbers are remembered"""
MOST_SHOTS = 24
"""pictures that can be looked at again"""
FIRST_MIN_SCORE = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """A picture with its answers, as the browser shows it."""

    number: int
    """counts up within the tab"""
    name: str
    size: tuple[int, int]
    """width and height of the original, pixels"""
    shown: bytes
    """JPEG"""
    thumbnail: bytes
    """JPEG; empty for a frame of the camera"""
    answers: Answers

    def rows(self, min_score: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows of the objects of detector 1 and of detector 2 with at least this score, best first."""
        return (
            tuple(surest(self.answers.easy, min_score)),
            tuple(surest(self.answers.hard, min_score)),
        )

    def more(self, min_score: float) -> tuple[int, ...]:
        """Rows of detector 2 for the objects that only it shows, at a minimum score."""
        return self.answers.seen.more(min_score)


@dataclass(kw_only=True)
class Tab:
    """What one tab shows. Nothing here asks a server: both answers of every picture are known."""

    calibration: Calibration | None = None
    points: Points = field(default_factory=Points)
    threshold: float = Points.first_threshold
    point: str | None = None
    """name of the operating point that was chosen; None for a threshold of one's own"""
    min_score: float = FIRST_MIN_SCORE
    current: Shot | None = None
    shots: deque[Shot] = field(default_factory=lambda: deque(maxlen=MOST_SHOTS))
    """oldest first, without frames of the camera"""
    _seen: deque[Seen] = field(default_factory=lambda: deque(maxlen=MOST_SEEN))
    _count: int = 0

    def learn(self, points: Points) -> None:
        """Take the operating points of the server, and the default one unless something else was chosen."""
        untouched = (self.point, self.threshold) == (self.points.default, self.points.first_threshold)
        self.points = points
        if untouched:
            self.point, self.threshold = points.default, points.first_threshold
        elif self.point is not None:
            self.point = self.point if self.promise is not None else None

    def add(self, picture: Picture, answers: Answers, *, from_camera: bool = False) -> Shot:
        """Remember a picture and show it; the oldest is forgotten when there are too many."""
        self._count += 1
        shot = Shot(
            number=self._count,
            name=picture.name,
            size=picture.size,
            shown=picture.shown,
            thumbnail=b"" if from_camera else picture.thumbnail,
            answers=answers,
        )
        self._seen.append(answers.seen)
        self.current = shot
        if not from_camera:
            self.shots.append(shot)
        return shot

    def forget(self) -> None:
        """Start again with no pictures."""
        self._seen.clear()
        self.shots.clear()
        self.current = None

    def choose_point(self, name: str) -> None:
        """Take the threshold of an operating point; a name that does not exist changes nothing."""
        promise = self.points.promises.get(name)
        if promise is not None:
            self.point, self.threshold = name, promise.threshold

    def choose_threshold(self, threshold: float) -> None:
        """Take a threshold of one's own, from 0 to 1."""
        self.point, self.threshold = None, min(1.0, max(0.0, threshold))

    @property
    def promise(self) -> Promise | None:
        """What the chosen operating point promises."""
        return None if self.point is None else self.points.promises.get(self.point)

    @property
    def numbers(self) -> Numbers | None:
        """All pictures so far at the threshold in force."""
        return numbers(self._seen, self.threshold, min_score=self.min_score)

    @property
    def is_hard(self) -> bool:
        """Whether the current picture goes to detector 2."""
        return self.current is not None and self.current.answers.seen.is_hard(self.threshold)

    def histogram(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Easy pictures and hard pictures in each bin of difficulty, at the threshold in force."""
        hard = [one.difficulty for one in self._seen if one.is_hard(self.threshold)]
        easy = [one.difficulty for one in self._seen if not one.is_hard(self.threshold)]
        return counted(easy), counted(hard)

    def shot(self, number: int) -> Shot | None:
        """A picture that is still remembered."""
        known = [*self.shots, *([] if self.current is None else [self.current])]
        return next((one for one in known if one.number == number), None)
