"""Class trees and the costs they imply."""

from mhe.hierarchy.tree import ClassTree

__all__ = ["ClassTree"]
