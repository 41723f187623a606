"""Tables as text."""

from collections.abc import Container, Iterable, Sequence


def text_table(
    rows: Iterable[Sequence[str]], header: Sequence[str], left: Container[int] = (0,)
) -> str:
    """Aligns cells in columns, two spaces apart, without trailing spaces.

    Args:
        rows: The cells of each row, one per column.
        header: The titles of the columns.
        left: Indices of the left-aligned columns; all others are right-aligned.

    Returns:
        The header and the rows, one line each.

    Example:

    >>> print(text_table([["cnn9", "71.25"], ["resnet", ""]], ["model", "accuracy"]))
    model   accuracy
    cnn9       71.25
    resnet
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
