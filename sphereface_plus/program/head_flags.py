"""The heads by name, and the flags that choose a head and its margin."""

import argparse
import inspect
from typing import Any

import keras

import mhe
from mhe.harness import recipes
from mhe.harness.comparisons import Comparison
from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.flags import Parser, integer, number
from sphereface_plus import heads
from sphereface_plus.lazy_optimizer import LazyOptimizer

HEADS = {
    "normface": heads.NormFace,
    "sphereface": heads.SphereFace,
    "sphereface_plus": heads.SphereFacePlus,
    "sphereface_r": heads.SphereFaceR,
    "sphereface2": heads.SphereFace2,
    "cosface": heads.CosFace,
    "arcface": heads.ArcFace,
    "combined": heads.CombinedMargin,
    "magface": heads.MagFace,
    "adaface": heads.AdaFace,
    "curricularface": heads.CurricularFace,
}
# Flags that are arguments of some heads; without them a head's own defaults apply.
_ARGUMENTS = (
    *("scale", "m", "lambda_start", "lambda_end", "gamma"),
    *("version", "normalization", "t", "weight", "h", "momentum"),
    *("m1", "m2", "m3", "subcenters", "interclass_filtering_threshold", "class_share"),
)
# Flags of the energy, which sphereface_plus has, and all heads with --energy every.
_ENERGY = {"power_s": "a2", "strength": 1.0, "energy_over": "all", "sample": None}


def add(parser: Parser, default: str, gamma: float | None = None) -> None:
    """Adds the flags.

    Args:
        parser: A program's parser.
        default: The default of `--model_name`.
        gamma: The default of `--gamma`; None leaves it to the head.

    Example:

    >>> parser = Parser("sphereface_plus/x.py", "Trains.")
    >>> add(parser, "sphereface")
    >>> parser.parse(["--m", "2", "3"])[0].m
    [2.0, 3.0]
    """
    above, rate = number(0, above=True), number(0)
    parser.add_argument(
        "--model_name",
        nargs="+",
        choices=list(HEADS),
        default=[default],
        help="the head, which defines the margin; sphereface_plus is sphereface with the energy of "
        "the class weights",
    )
    parser.add_argument(
        "--scale",
        type=scale,
        help="norm to which features are scaled; auto: sqrt(2) log(classes - 1) "
        "(default: the head's own)",
    )
    parser.add_argument(
        "--m", type=rate, nargs="+", help="the margin (default: the published one of the head)"
    )
    parser.add_argument(
        "--lambda_start",
        type=rate,
        help="sphereface, sphereface_plus: initial weight of the logit without margin, which "
        "decreases as 1/(1 + gamma step) (default: 1000)",
    )
    parser.add_argument(
        "--lambda_end",
        type=rate,
        help="sphereface, sphereface_plus: minimum of that weight (default: 5)",
    )
    parser.add_argument(
        "--gamma",
        type=rate,
        default=gamma,
        help="sphereface, sphereface_plus: how fast that weight decreases"
        + (" (default: 0.12)" if gamma is None else ""),
    )
    parser.add_argument(
        "--version",
        type=integer(0, 2),
        help="sphereface_r: which multiplicative margin (default: 1)",
    )
    parser.add_argument(
        "--normalization",
        choices=["hard", "soft", "none"],
        help="sphereface_r: how features are normalized (default: hard)",
    )
    parser.add_argument(
        "--t", type=above, help="sphereface2: exponent of the similarity (default: 3)"
    )
    parser.add_argument(
        "--weight", type=above, help="sphereface2: weight of the true class (default: 0.7)"
    )
    parser.add_argument(
        "--h", type=above, help="adaface: how strongly quality acts on the margin (default: 0.333)"
    )
    parser.add_argument(
        "--momentum",
        type=number(0, 1),
        help="adaface, curricularface: what the moving averages keep in a step (default: 0.99)",
    )
    parser.add_argument(
        "--m1", type=above, help="combined: factor on the angle to the true class (default: 1)"
    )
    parser.add_argument(
        "--m2", type=rate, help="combined: angle added to it, in radians (default: 0.3)"
    )
    parser.add_argument(
        "--m3", type=rate, help="combined: what is subtracted from the cosine (default: 0.2)"
    )
    parser.add_argument(
        "--interclass_filtering_threshold",
        type=above,
        help="heads with a softmax: cosine above which other classes count as at a right "
        "angle, as the same person under another name (default: none)",
    )
    parser.add_argument(
        "--class_share",
        type=above,
        help="heads with a softmax: the share of the people that a step looks at, those of the "
        "batch and others at random, as in Partial FC (default: all). It leaves the class vectors "
        "of the others alone: momentum and --weight_decay do not move them, only an energy of all "
        "does. The log then has no accuracy, which needs the logits of all people",
    )
    parser.add_argument(
        "--subcenters",
        type=integer(1, 100),
        help="vectors per class, of which the nearest counts (default: 1)",
    )
    parser.add_argument(
        "--energy",
        choices=["own", "every"],
        default="own",
        help="own: sphereface_plus alone adds the energy of the class weights; every: all heads "
        "do, each becomes its '+' version",
    )
    parser.add_argument(
        "--power_s",
        choices=list(recipes.POWERS),
        help="with an energy: the power s of the energy, with 'a' over angles instead of "
        "Euclidean distances (default: a2)",
    )
    parser.add_argument(
        "--strength", type=rate, help="with an energy: weight of the energy (default: 1)"
    )
    parser.add_argument(
        "--energy_over",
        choices=heads.OVER,
        help="with an energy: the energy of all classes, or, as published, of those in the batch "
        "among all (default: all)",
    )
    parser.add_argument(
        "--sample",
        type=integer(2),
        help="with an energy: number of classes to sample for the energy at every step "
        "(default: all)",
    )


def scale(text: str) -> float | str:
    """Reads `--scale`: a number above 0, or "auto".

    Example:

    >>> scale("64"), scale("auto")
    (64.0, 'auto')
    """
    return text if text == "auto" else number(0, above=True)(text)


def check(args: argparse.Namespace) -> None:
    """Refuses flags that none of the heads takes.

    Args:
        args: The resolved flags, with lists.

    Raises:
        BadInput: If there is such a flag.
    """
    taken = set().union(*(_taken(name, args.energy) for name in args.model_name))
    for flag in (*_ARGUMENTS, *_ENERGY):
        if getattr(args, flag) is not None and flag not in taken:
            names = ", ".join(args.model_name)
            raise BadInput(f"--{flag} does not apply to --model_name {names}")


def expand_runs(args: argparse.Namespace, comparison: Comparison) -> dict[str, argparse.Namespace]:
    """Returns the flags of each run by the name of the run.

    Args:
        args: The resolved flags, with lists.
        comparison: The program's comparison, which varies `model_name` and `m`.

    Returns:
        The flags of each run; those that its head does not take are None.
    """

    def applicable(values: dict[str, Any]) -> dict[str, Any]:
        return values if "m" in _taken(values["model_name"], args.energy) else {**values, "m": None}

    runs = comparison.combinations(args, applicable)
    for flags in runs.values():
        taken = _taken(flags.model_name, args.energy)
        for flag in {*_ARGUMENTS, *_ENERGY} - taken:
            setattr(flags, flag, None)
        for flag in taken.intersection(_ENERGY):
            if getattr(flags, flag) is None:
                setattr(flags, flag, _ENERGY[flag])
    return runs


def build(args: argparse.Namespace, classes: int) -> heads.MarginHead:
    """Builds the head of a run.

    Args:
        args: The flags of one run, `weight_decay` among them.
        classes: The number of classes.

    Raises:
        BadInput: If an argument of the head is out of range.
    """
    options = {name: getattr(args, name) for name in _ARGUMENTS if getattr(args, name) is not None}
    if "class_share" in options:
        options["sample"] = options.pop("class_share")
    if args.model_name in ("sphereface", "sphereface_plus") and options.get("m", 0.5).is_integer():
        options["m"] = int(options["m"])
    # With a share of the people, `optimizer` decays the vectors of those that a step looks at.
    if args.weight_decay and args.class_share is None:
        options["kernel_regularizer"] = keras.regularizers.L2(args.weight_decay / 2)
    if args.energy == "every" or args.model_name == "sphereface_plus":
        s, distance = recipes.POWERS[args.power_s]
        options["energy"] = mhe.MHE(
            args.strength, s=s, distance=distance, space="full", sample=args.sample
        )
        options["energy_over"] = args.energy_over
    with as_bad_input(f"--model_name {args.model_name}"):
        # With a fixed name, weights and columns of a log have the same names in every run.
        return HEADS[args.model_name](classes, name="head", **options)


def looks_at_batches(args: argparse.Namespace) -> bool:
    """Whether a run's head looks at the other images of a batch.

    That is at their people, or at the norms and cosines of their features.

    Args:
        args: The flags of one run.
    """
    keeps_averages = args.model_name in ("adaface", "curricularface")
    return keeps_averages or args.class_share is not None or args.energy_over == "batch"


def optimizer(args: argparse.Namespace, inner: keras.optimizers.Optimizer) -> Any:
    """Returns the optimizer for a run's head, which may look at a share of the people.

    Args:
        args: The flags of one run, `weight_decay` among them.
        inner: The optimizer for everything else.
    """
    if args.class_share is None:
        return inner
    return LazyOptimizer(inner, l2=args.weight_decay / 2)


def _taken(model_name: str, energy: str) -> set[str]:
    """The flags that a head takes: its arguments and its parents', and those of its energy."""
    arguments = {
        name
        for each in HEADS[model_name].__mro__
        if "__init__" in vars(each)
        for name in inspect.signature(vars(each)["__init__"]).parameters
    }
    # --sample is of the energy; the heads' argument of this name is --class_share.
    if "sample" in arguments:
        arguments.add("class_share")
    arguments -= set(_ENERGY)
    return arguments | set(_ENERGY if energy == "every" or model_name == "sphereface_plus" else ())
