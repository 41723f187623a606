"""The flags of the timing programs."""

import argparse
from collections.abc import Callable

from mhe.harness.flags import LineParser, integer, number


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
    seed = integer(0, 2**32 - 1)
    parser.add_argument("--seed", type=seed, default=0, help=f"seed of the {seeded}")
    parser.add_argument("--out", default=f"runs/{name}", help=out)
    return parser


def add_rounds(parser: LineParser, rounds: int, seconds: float, per: str) -> None:
    """Adds the flags of `timing.rounds.interleaved`.

    Args:
        parser: The parser to extend.
        rounds: The default of `--rounds`.
        seconds: The default of `--seconds`.
        per: What the seconds are for, such as `"layer and energy"`.
    """
    parser.add_argument(
        "--rounds", type=integer(1), default=rounds, help="maximum number of times to time a call"
    )
    parser.add_argument(
        "--seconds",
        type=number(0, above=True),
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
        if len(numbers(text)) != 2 or min(numbers(text)) < 2:
            raise argparse.ArgumentTypeError(
                f"must be {sides}, such as {example}, at least 2 each. Received: {text}"
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
    return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else []
