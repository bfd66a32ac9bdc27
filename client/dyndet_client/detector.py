"""The detector behind a server's address."""

from __future__ import annotations

import math
import threading
from types import TracebackType

from dynamicdet.errors import InputError
from dynamicdet.images import ImageSource
from dyndet_client.codec import Options, ServedModel, decode, encode, parse_model
from dyndet_client.detections import Detections
from dyndet_client.transport import GrpcTransport


class Detector:
    """Detects objects through a Triton server that serves a dyndet model repository.

    Entering the context connects and checks the model, so that a wrong address or model shows at once; without `with`,
    the first use does, and `close` ends the connection. Threads may share a detector.

    Args:
        url: the server's gRPC address, `host:port` or `grpc://host:port`.
        model: the public model's name.
        timeout: seconds to wait for an answer, also for the first connection.

    Raises InputError for a malformed address or timeout, and on connecting ServerUnreachableError, ModelNotReadyError
    or NotADetectorError (`dyndet_client.errors` shows the tree).

    ::

        with Detector("127.0.0.1:8001") as detector:
            found = detector.detect("street.jpg")
            print(found.route, found.names)
    """

    def __init__(self, url: str, model: str = "dyndet", *, timeout: float = 30.0) -> None:
        if not model:
            raise InputError("model must be a name, not an empty string")
        self._timeout = _seconds(timeout)
        self._transport = GrpcTransport(url, model)
        self._connecting = threading.Lock()
        self._served: ServedModel | None = None
        self._closed = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes, in the order of class numbers; connects where needed."""
        return self._connect().class_names

    @property
    def input_size(self) -> int:
        """Side of the square, in pixels, that pictures are fitted into; connects where needed."""
        return self._connect().input_size

    def detect(
        self,
        image: ImageSource,
        *,
        threshold: float | None = None,
        operating_point: str | None = None,
        min_score: float = 0.25,
        timeout: float | None = None,
    ) -> Detections:
        """Detect the objects in one picture.

        Args:
            image: a path, the bytes of an image file, a PIL image or an RGB array (`dynamicdet.images.read_image`).
            threshold: pictures with a larger difficulty take the hard route; 1 makes every picture easy, 0 hard.
            operating_point: a threshold by the name the calibration gave it. Without either the server's default rules.
            min_score: objects below this score are left out.
            timeout: seconds to wait for the answer, instead of the detector's own.

        Raises InputError for a picture that cannot be read or an option out of range, ServerUnreachableError,
        BadRequestError (such as an unknown operating point), DeadlineExceededError, or another ServerError.
        """
        options = Options(threshold=threshold, operating_point=operating_point, min_score=min_score)
        seconds = self._timeout if timeout is None else _seconds(timeout)
        served = self._connect()
        request = encode(served, image, options)
        return decode(served, request, self._transport.infer(request, seconds))

    def close(self) -> None:
        """End the connection; the detector cannot be used afterwards."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Detector:
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> ServedModel:
        if self._closed:
            raise InputError("this detector is closed; make a new one")
        with self._connecting:
            if self._served is None:
                self._served = parse_model(self._transport.model_config(self._timeout))
            return self._served


def _seconds(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)
