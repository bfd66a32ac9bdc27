"""Errors that reach a user: one sentence that says what was wrong, what was found and what is accepted.

::

    DyndetError (exit status 1)
    ├── InputError (2)            bad file, value, image or option
    │   ├── CheckpointError       a checkpoint that cannot be loaded
    │   └── PictureTooLargeError  an image with too many pixels
    ├── TargetOutOfReachError (3) no threshold meets the target; the message states the reachable range
    │   └── IllConditionedError   one does, but only on the images that it was measured with
    ├── MissingExtraError (4)     an optional part is not installed; the message states the command that installs it
    ├── ParityError (5)           an exported graph differs from its network by more than is accepted
    ├── ServerError (6)           the server cannot be started or reached, or it answered with an error
    ├── TooNoisyError (7)         noise, or too few measurements, hide whether a target is met
    ├── AgreementError (8)        a new build answers otherwise than the running one on too many images
    └── NotUsableError (9)        all results were written, and they say that a detector or router is not usable
"""


class DyndetError(Exception):
    """Base of all errors that are shown to a user as one sentence, without a traceback."""

    exit_code = 1
    label = "Error"
    """what a command prints before the sentence"""


class InputError(DyndetError, ValueError):
    """An input of the user is wrong: a file, a value, an image or an option."""

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, unsafe or of another architecture."""


class PictureTooLargeError(InputError):
    """An image has more pixels than accepted; it was not decoded."""


class TargetOutOfReachError(DyndetError):
    """No threshold meets the target; the message states the reachable range."""

    exit_code = 3


class IllConditionedError(TargetOutOfReachError):
    """A percentile depends so strongly on the share of hard images that other images would miss it."""


class MissingExtraError(DyndetError):
    """An optional part is not installed; the message states the command that installs it."""

    exit_code = 4


class ParityError(DyndetError):
    """An exported graph differs from its network by more than the contract accepts."""

    exit_code = 5


class ServerError(DyndetError):
    """The server cannot be started or reached, or it answered with an error."""

    exit_code = 6


class TooNoisyError(DyndetError):
    """Measurements scatter too much, or are too few, to say whether a target is met; the message states which."""

    exit_code = 7


class AgreementError(DyndetError):
    """A new build answers otherwise than the running one on too many images; the running one stays in use."""

    exit_code = 8


class NotUsableError(DyndetError):
    """Nothing failed and all outputs were written, but they show that a detector or router is not usable."""

    exit_code = 9
    label = "Not usable"
