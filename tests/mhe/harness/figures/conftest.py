"""What tests of figures share."""

import pytest

from mhe.harness.figures import canvas


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    kept = []

    def save(figure, path, save=canvas.save):
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(canvas, "save", save)
    return kept
