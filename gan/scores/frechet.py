"""The Fréchet distance between two Gaussians, the features' of real and of generated images."""

from typing import Any

import numpy as np

# Eigenvalues this far below the largest, times the dimension, are rounding.
_EPSILON = np.finfo(np.float64).eps
# A covariance that came through float32 is off by this.
_OFF = 1e-5


def frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), the squared Fréchet distance.

    With Σ = R Rᵀ for both covariances, Tr (Σ₁Σ₂)^½ is the sum of the singular values of R₁ᵀR₂. So
    no root of a matrix that is not symmetric is taken, and covariances may be singular, as they are
    where there are fewer images than features.

    Args:
        mu1: Mean `(D,)` of the features of one set of images.
        sigma1: Their covariance `(D, D)`.
        mu2: Mean `(D,)` of the other set.
        sigma2: Its covariance `(D, D)`.

    Returns:
        The distance, 0 or more.

    Raises:
        ValueError: If the shapes do not fit, a number is not finite, or a covariance is not
            symmetric or has a negative eigenvalue.

    Example:

    >>> round(frechet_distance([0.0], [[1.0]], [3.0], [[4.0]]), 6)
    10.0

    Reference:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium, NeurIPS 2017 (arXiv 1706.08500), equation 6.
    """
    mu1, mu2 = (np.asarray(each, np.float64) for each in (mu1, mu2))
    sigma1, sigma2 = (np.asarray(each, np.float64) for each in (sigma1, sigma2))
    dims = mu1.size
    shapes = mu1.shape, sigma1.shape, mu2.shape, sigma2.shape
    if dims == 0 or shapes != ((dims,), (dims, dims)) * 2:
        raise ValueError(
            "The means must have shape (D,) and the covariances (D, D). Received: "
            + ", ".join(map(str, shapes))
        )
    if not all(np.isfinite(each).all() for each in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("Means and covariances must be finite. Received: NaN or infinity")
    roots = _root(sigma1, "sigma1"), _root(sigma2, "sigma2")
    cross = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    distance = np.square(mu1 - mu2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * cross
    return max(0.0, float(distance))


def _root(sigma, name):
    """R `(D, rank)` with R Rᵀ = Σ."""
    size = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > _OFF * size:
        raise ValueError(f"`{name}` must be symmetric. Received: a matrix that is not")
    # Of full rank, as where there are more images than features: by far the fastest root.
    try:
        root = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        root = np.zeros_like(sigma)
    if np.square(np.diag(root)).min() > len(sigma) * _EPSILON * size:
        return root
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    if values[0] < -_OFF * max(values[-1], size):
        raise ValueError(
            f"`{name}` must have no negative eigenvalue. Received: {values[0]} beside {values[-1]}"
        )
    # A root would make a rounding error of 1e-16 one of 1e-8.
    kept = values > len(values) * _EPSILON * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])
