"""The error that is meant for the person at the keyboard."""


class BadInput(ValueError):  # noqa: N818 - it names what was wrong, not that something was
    """Something the user gave cannot be used, and the message says what in one line.

    The programs print the message, without a traceback, and exit with code 2; anything else that
    goes wrong is a defect and keeps its traceback. Line breaks, which the messages of other
    libraries bring along, become spaces.

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
