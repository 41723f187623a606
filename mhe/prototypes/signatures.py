"""Functions that share the arguments of another one, which are then written once."""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def same_arguments(original: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Decorator: gives a function that forwards all its arguments the signature of the original.

    Args:
        original: The function that receives the arguments.

    Example:

    >>> def scale(rows: list, factor: float = 2.0) -> list:
    ...     return [factor * row for row in rows]
    >>> @same_arguments(scale)
    ... def largest(*args, **kwargs) -> float:
    ...     return max(scale(*args, **kwargs))
    >>> inspect.signature(largest)
    <Signature (rows: list, factor: float = 2.0) -> float>
    """

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        returns = inspect.signature(function).return_annotation
        signature = inspect.signature(original).replace(return_annotation=returns)
        function.__signature__ = signature  # type: ignore[attr-defined] # unknown to typeshed
        return function

    return decorate
