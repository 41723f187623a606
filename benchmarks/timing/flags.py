"""The flags of the timing programs."""

import argparse
from collections.abc import Callable, Sequence

from mhe.harness.errors import BadInput
from mhe.harness.flags import COUNT, SECONDS, SEED, LineParser, file_path
from mhe.text import brief

_LARGEST = 10**7
_DIGITS = 20


def timing_parser(name: str, description: str, out: str, seeded: str) -> LineParser:
    """Returns a parser with the flags that every timing program has.

    Args:
        name: The program's file and the folder of its results, such as `"speed"`.
        description: What it does.
        out: What `--help` says of `--out`.
        seeded: What the seed draws.

    Example:

    >>> parser = timing_parser("speed", "Times the energy.", "folder for the results", "weights")
    >>> parser.parse_args(["--seed", "3"])
    Namespace(seed=3, out='runs/speed')
    """
    parser = LineParser(prog=f"benchmarks/{name}.py", description=description)
    parser.add_argument("--seed", type=SEED, default=0, help=f"seed of the {seeded}")
    parser.add_argument("--out", type=file_path, default=f"runs/{name}", help=out)
    return parser


def require_installed(names: Sequence[str], installed: Sequence[str]) -> None:
    """Refuses a value of `--backends` that is not installed.

    Args:
        names: The values.
        installed: The backends that are.

    Raises:
        BadInput: If there is one.

    Example:

    >>> require_installed(["jax"], ["jax", "torch"])
    """
    for name in names:
        if name not in installed:
            raise BadInput(f"--backends {name} is not installed. Installed: {', '.join(installed)}")


def add_rounds(parser: LineParser, rounds: int, seconds: float, per: str) -> None:
    """Adds the flags of `timing.rounds.interleaved`.

    Args:
        parser: The parser to extend.
        rounds: The default of `--rounds`.
        seconds: The default of `--seconds`.
        per: What the seconds are for, such as `"layer and energy"`.
    """
    parser.add_argument(
        "--rounds", type=COUNT, default=rounds, help="maximum number of times to time a call"
    )
    parser.add_argument(
        "--seconds",
        type=SECONDS,
        default=seconds,
        help=f"start no round after this time, except for the first three, per {per}",
    )


def size(sides: str, example: str) -> Callable[[str], str]:
    """Returns an argparse type: a size of two numbers, such as `"512x4096"`.

    Args:
        sides: The two numbers, in words.
        example: A size, for the message.

    Example:

    >>> size("dimensions x neurons", "512x4096")("16x8")
    '16x8'
    """

    def parse(text: str) -> str:
        if len(numbers(text)) != 2 or not all(2 <= side <= _LARGEST for side in numbers(text)):
            raise argparse.ArgumentTypeError(
                f"must be {sides}, such as {example}, from 2 to {_LARGEST} each. "
                f"Received: {brief(text)}"
            )
        return text

    return parse


def numbers(text: str) -> list[int]:
    """Returns the numbers of `"512x4096"`; none if it is not made of numbers.

    Example:

    >>> numbers("512x4096"), numbers("wide")
    ([512, 4096], [])
    """
    parts = text.split("x")
    # Python reads no number of thousands of digits.
    known = all(part.isdecimal() and len(part) <= _DIGITS for part in parts)
    return [int(part) for part in parts] if known else []
