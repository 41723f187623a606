"""The tables and the figure of `speed.py`."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mhe.harness.files import replacing
from mhe.harness.tables import text_table
from timing.results import Row, variant

# The columns of the layer and of the energy are names, all others are numbers.
NAMES = (0, 1)


def compare(rows: Iterable[Row]) -> list[Row]:
    """Puts the methods of a layer and energy side by side.

    Args:
        rows: The rows of `speed.csv`.

    Returns:
        For each backend, layer and energy: `times` in ms, `notes` and `memory` by method;
        `speedup`, the better published time over the kernel's as Keras compiles it; and
        `over_floor`, the kernel's time over the better floor. A ratio without a time is None.

    Example:

    >>> case = {"backend": "jax", "dims": 8, "neurons": 4, "space": "full", "distance": "angle",
    ...         "s": 2, "as_keras": True}
    >>> times = {"kernel": 2.0, "published": 6.0, "floor": 1.0}
    >>> rows = [{**case, "name": m, "method": m, "median_ms": t} for m, t in times.items()]
    >>> (one,) = compare(rows)
    >>> one["speedup"], one["over_floor"]
    (3.0, 2.0)
    """
    names = ("backend", "dims", "neurons", "space", "distance", "s")
    cases: dict[tuple, Row] = {}
    best: dict[tuple, dict[str, float]] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        case = cases.setdefault(key, {**dict(zip(names, key, strict=True)), "times": {}})
        for column, kept in (("median_ms", "times"), ("note", "notes"), ("memory_mib", "memory")):
            case.setdefault(kept, {})
            if row.get(column) is not None:
                # The note on a process that died is on all methods.
                case[kept][row.get("method", "all")] = row[column]
        if "median_ms" in row and (row["as_keras"] or row["name"] != "kernel"):
            least = best.setdefault(key, {})
            least[row["name"]] = min(row["median_ms"], least.get(row["name"], math.inf))
    for key, case in cases.items():
        least = best.get(key, {})
        for ratio, over, under in (
            ("speedup", "published", "kernel"),
            ("over_floor", "kernel", "floor"),
        ):
            known = over in least and under in least
            case[ratio] = least[over] / least[under] if known else None
    return list(cases.values())


def table(cases: Sequence[Row]) -> str:
    """Returns one backend's comparison as text, times in ms, memory in MiB, with notes.

    Args:
        cases: From `compare`.
    """
    methods = list(dict.fromkeys(method for case in cases for method in case["times"]))
    measured = [m for m in methods if any(m in case["memory"] for case in cases)]
    header = ["layer", "energy", *methods, "published/kernel", "kernel/floor"]
    header += [f"MiB {method}" for method in measured]
    lines = []
    notes = []
    for case in cases:
        name = f"{case['dims']}x{case['neurons']}"
        lines.append(
            [
                *(name, variant(case)),
                *(_cell(case["times"].get(method), "{:.4g}") for method in methods),
                *(_cell(case[ratio], "{:.2f}") for ratio in ("speedup", "over_floor")),
                *(_cell(case["memory"].get(method), "{:.0f}") for method in measured),
            ]
        )
        notes += [f"{name} {variant(case)}, {m}: {note}" for m, note in case["notes"].items()]
    return "\n".join([text_table(lines, header, NAMES), *notes])


def _cell(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


WIDE = ("2304x256", "4608x512")
# Each target: a name, which cases, the ratio, and the bound on it, from below or from above.
TARGETS: tuple[tuple[str, tuple[str | None, tuple[str, ...] | None], str, str, float], ...] = (
    ("half space, 2304x256 and 4608x512", ("half", WIDE), "speedup", ">=", 4.5),
    ("half space, 512x4096", ("half", ("512x4096",)), "speedup", ">=", 4.5),
    ("full space, the same", ("full", (*WIDE, "512x4096")), "speedup", ">=", 1.5),
    ("small layer, 576x64", (None, ("576x64",)), "speedup", ">=", 1.0),
    ("Euclidean, s = 0 and 2, N >= 512", ("euclidean", None), "over_floor", "<=", 1.5),
    ("angle, s = 0 and 2, N >= 512", ("angle", None), "over_floor", "<=", 2.0),
)


def targets(cases: Sequence[Row]) -> str:
    """Returns the targets as text, beside the worst and the median ratios of one backend.

    Args:
        cases: From `compare`.
    """
    header = ["target", "ratio", "asked", "worst", "at", "median", ""]
    lines = []
    for name, (kind, layers), ratio, sense, bound in TARGETS:
        ratios = [
            (case[ratio], f"{case['dims']}x{case['neurons']} {variant(case)}")
            for case in cases
            if case[ratio] is not None
            and kind in (None, case["space"], case["distance"])
            and (
                f"{case['dims']}x{case['neurons']}" in layers
                if layers
                else case["neurons"] >= 512 and case["s"] in (0, 2)
            )
        ]
        what = "published/kernel" if ratio == "speedup" else "kernel/floor"
        line = [name, what, f"{sense} {bound:g}"]
        if not ratios:
            lines.append([*line, "-", "-", "-", "not measured"])
            continue
        worst, where = min(ratios) if sense == ">=" else max(ratios)
        met = worst >= bound if sense == ">=" else worst <= bound
        median = np.median([value for value, _ in ratios])
        verdict = "met" if met else "missed"
        lines.append([*line, f"{worst:.2f}", where, f"{median:.2f}", verdict])
    return text_table(lines, header, NAMES)


def draw(cases: Sequence[Row], path: Path) -> None:
    """Draws the ratios of every backend, one row of panels each.

    Args:
        cases: From `compare`.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    backends = list(dict.fromkeys(case["backend"] for case in cases))
    layers = list(dict.fromkeys((case["dims"], case["neurons"]) for case in cases))
    energies = list(dict.fromkeys(variant(case) for case in cases))
    figure = Figure(figsize=(11, 3.2 * len(backends) + 0.6), layout="constrained")
    panels = figure.subplots(len(backends), 2, squeeze=False)
    titles = {
        "speedup": "times faster than the published formula",
        "over_floor": "time over two matrix products",
    }
    for backend, row in zip(backends, panels, strict=True):
        for axes, (ratio, title) in zip(row, titles.items(), strict=True):
            for place, energy in enumerate(energies):
                points = [
                    (layers.index((case["dims"], case["neurons"])), case[ratio])
                    for case in cases
                    if case["backend"] == backend and variant(case) == energy and case[ratio]
                ]
                # Side by side, so that no energy hides another; hollow markers are half space.
                shift = 0.6 * (place - (len(energies) - 1) / 2) / len(energies)
                axes.plot(
                    [x + shift for x, _ in points],
                    [y for _, y in points],
                    "o",
                    color=f"C{place % 6}",
                    fillstyle="none" if energy.startswith("half") else "full",
                    markersize=5,
                    label=energy,
                )
            axes.axhline(1, color="0.5", linewidth=0.8)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xticks(range(len(layers)), [f"{d}x{n}" for d, n in layers], fontsize=8)
            axes.set_title(f"{backend}: {title}", fontsize=10)
            axes.grid(alpha=0.3, axis="y")
            axes.tick_params(axis="y", labelsize=8)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def step_table(rows: Sequence[Row]) -> str:
    """Returns training steps in ms as text, and what the energies add to them in percent.

    Args:
        rows: The rows of `step.csv`.

    Example:

    >>> case = {"backend": "jax", "model": "cnn9", "batch": 128}
    >>> rows = [{**case, "method": "no energy", "median_ms": 100.0},
    ...         {**case, "method": "mhe", "median_ms": 102.5},
    ...         {**case, "method": "published", "note": "needs about 9.0 GiB"}]
    >>> print(step_table(rows))
    backend  network  batch  no energy    mhe  mhe adds  published  published adds
    jax      cnn9       128      100.0  102.5     +2.5%          -               -
    cnn9 on jax, published: needs about 9.0 GiB
    """
    energies = ("mhe", "published")
    header = ["backend", "network", "batch", "no energy"]
    header += [text for name in energies for text in (name, f"{name} adds")]
    lines = []
    for key in dict.fromkeys((row["backend"], row["model"], row["batch"]) for row in rows):
        times = {
            row["method"]: row["median_ms"]
            for row in rows
            if (row["backend"], row["model"], row["batch"]) == key and "median_ms" in row
        }
        plain = times.get("no energy")
        line = [*map(str, key), _cell(plain, "{:.1f}")]
        for name in energies:
            time = times.get(name)
            adds = None if time is None or plain is None else 100 * (time / plain - 1)
            line += [_cell(time, "{:.1f}"), _cell(adds, "{:+.1f}%")]
        lines.append(line)
    notes = [
        f"{row['model']} on {row['backend']}, {row.get('method', 'all')}: {row['note']}"
        for row in rows
        if "note" in row
    ]
    return "\n".join([text_table(lines, header, NAMES), *notes])


def memory_table(rows: Sequence[Row]) -> str:
    """Returns the seconds and the memory of one call as text.

    Args:
        rows: The rows of `memory.csv`.

    Example:

    >>> print(memory_table([{"backend": "jax", "dims": 512, "neurons": 50_000, "seconds": 41.5,
    ...                      "memory_mib": 300.2}]))
    backend  layer      seconds  MiB over weight and gradient
    jax      512x50000     41.5                         300.2
    """
    header = ["backend", "layer", "seconds", "MiB over weight and gradient"]
    lines = []
    for row in rows:
        cells = (_cell(row.get(name), "{:.1f}") for name in ("seconds", "memory_mib"))
        lines.append([row["backend"], f"{row['dims']}x{row['neurons']}", *cells])
    notes = [f"{row['dims']}x{row['neurons']}: {row['note']}" for row in rows if "note" in row]
    return "\n".join([text_table(lines, header, NAMES), *notes])


def sampling_table(rows: Sequence[Row]) -> str:
    """Returns the spread of sampled energies as text, and the power of the sample it follows.

    Args:
        rows: The rows of `sampling.csv`.

    Example:

    >>> case = {"kind": "random", "space": "half", "bias": 0.0}
    >>> print(sampling_table([{**case, "sample": k, "deviation": 0.3 / k} for k in (10, 100)]))
    layer   space  sample  deviation    bias
    random  half       10     3.000%  +0.000%
    random  half      100     0.300%  +0.000%
    random, half: deviation about 0.3 * sample^-1.00
    """
    header = ["layer", "space", "sample", "deviation", "bias"]
    lines = []
    for row in rows:
        spread, bias = f"{100 * row['deviation']:.3f}%", f"{100 * row['bias']:+.3f}%"
        lines.append([row["kind"], row["space"], str(row["sample"]), spread, bias])
    laws = []
    for kind, space in dict.fromkeys((row["kind"], row["space"]) for row in rows):
        points = [
            (row["sample"], row["deviation"])
            for row in rows
            if (row["kind"], row["space"]) == (kind, space) and row["deviation"] > 0
        ]
        if len(points) > 1:
            sample, deviation = np.log(np.transpose(points))
            power, start = np.polyfit(sample, deviation, deg=1)
            law = f"{np.exp(start):.3g} * sample^{power:.2f}"
            laws.append(f"{kind}, {space}: deviation about {law}")
    return "\n".join([text_table(lines, header, NAMES), *laws])


def family_table(rows: Sequence[Row]) -> str:
    """Returns the time of each regularizer as text, with its ratio to MHE's.

    Args:
        rows: The rows of `family.csv`.

    Example:

    >>> case = {"backend": "jax", "dims": 64, "neurons": 8, "method": "mma"}
    >>> print(family_table([{**case, "median_ms": 3.5, "ratio": 1.4}]))
    backend  layer  method  median, ms  over MHE's
    jax      64x8      mma         3.5        1.40
    """
    lines = [
        [
            *(row["backend"], f"{row['dims']}x{row['neurons']}", row.get("method", "all")),
            *(_cell(row.get("median_ms"), "{:.4g}"), _cell(row.get("ratio"), "{:.2f}")),
        ]
        for row in rows
    ]
    return text_table(lines, ["backend", "layer", "method", "median, ms", "over MHE's"], NAMES)
