"""Generative adversarial networks with spectral norm and minimum hyperspherical energy."""

from gan import energies, losses, networks, scores
from gan.model import GAN, published_optimizer

__all__ = ["GAN", "energies", "losses", "networks", "published_optimizer", "scores"]
