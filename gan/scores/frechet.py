"""The Fréchet distance between the features of two sets of images, as Gaussians.

Not SciPy's `sqrtm` of a product, which loses precision for singular covariances: here the distance
of a set to itself is 0 up to rounding, with fewer images than features, too.
"""

from typing import Any

import numpy as np

# Times the dimension and the largest eigenvalue, the size of rounding errors in eigenvalues.
_EPSILON = np.finfo(np.float64).eps
# The relative error of a covariance that was stored in float32.
_OFF = 1e-5


def frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), the squared Fréchet distance.

    With Σ = R Rᵀ for both covariances, Tr (Σ₁Σ₂)^½ is the sum of the singular values of R₁ᵀR₂. This
    avoids the root of a matrix that is not symmetric, and allows singular covariances, as of fewer
    images than features.

    Args:
        mu1: Mean `(D,)` of the features of the first set of images.
        sigma1: Covariance `(D, D)` of the first set.
        mu2: Mean `(D,)` of the second set.
        sigma2: Covariance `(D, D)` of the second set.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: If the shapes do not match, a number is not finite, or a covariance is not
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


def _root(sigma: np.ndarray, name: str) -> np.ndarray:
    """R `(D, rank)` with R Rᵀ = Σ."""
    size = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > _OFF * size:
        raise ValueError(f"`{name}` must be symmetric. Received: an asymmetric matrix")
    # By far the fastest root, if the rank is full, as of more images than features.
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
    # The root of a rounding error of 1e-16 is 1e-8.
    kept = values > len(values) * _EPSILON * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])
