"""Reads docstrings as Keras writes them: Markdown links, indented formulas, single backticks.

Autodoc expects reStructuredText. There, links look different, and an indented block is a quotation
instead of text to be shown as it is. Keras's models are shown with the arguments of `__init__`.
"""

import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
_SECTION = re.compile(
    r"^(Args|Attributes|Call arguments|Examples?|Notes?|Raises|References?|Returns|Yields):$"
)


def to_rst(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring with links and indented blocks as reStructuredText.

    Indented lines under a section such as `Args:` are left to napoleon.
    """
    result: list[str] = []
    in_section = in_block = False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            in_section, in_block = bool(_SECTION.match(line)), False
        elif indented and not in_section and not in_block and (not result or not result[-1]):
            result += ["::", ""]
            in_block = True
        result.append(line if in_block else _LINK.sub(r"`\1 <\2>`__", line))
    return result


def setup(app: Any) -> dict[str, Any]:
    from sphinx.util import inspect

    def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = to_rst(lines)

    def signature(
        app: Any, what: str, name: str, obj: Any, options: Any, shown: str | None, returns: Any
    ) -> tuple[str | None, Any]:
        if what == "class" and shown == "(*args, **kwargs)":
            # What Keras's `Model.__new__` takes; `__init__` knows better.
            own = inspect.signature(obj.__init__, bound_method=True)
            shown = inspect.stringify_signature(own, show_annotation=False)
        return shown, returns

    app.connect("autodoc-process-signature", signature)
    # Before napoleon, which turns sections into fields.
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
