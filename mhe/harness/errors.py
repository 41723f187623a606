"""The errors that a program reports in one line."""


class BadInput(ValueError):  # noqa: N818 - it names what was wrong, not that something was
    """Something the user passed cannot be used, and the message says why in one line.

    Programs print the message without a traceback and exit with code 2. Anything else that goes
    wrong is a defect and keeps its traceback. Line breaks in the messages of other libraries become
    spaces.

    Args:
        message: What is wrong and what was expected, naming the file or the flag.

    Example:

    >>> from mhe.harness.errors import BadInput
    >>> raise BadInput("--epochs must be positive. Received: 0")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --epochs must be positive. Received: 0
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class Diverged(RuntimeError):  # noqa: N818 - an end that a run can come to, not a defect
    """A loss or a weight is no longer finite; the run cannot continue."""
