"""Clusters of classes in an embedding, batches drawn from them, and classification by them.

Magnet loss trains on neighborhoods. An index holds k clusters per class of the whole training set
and is rebuilt at the start of each epoch; a batch is a cluster with a high loss and the nearest
clusters of other classes.

    batches = mhe.clusters.MagnetBatches(images, labels, per_class=3)
    model.compile("adam", mhe.losses.MagnetLoss())
    model.fit(batches, epochs=10, callbacks=[mhe.clusters.RefreshClusters(batches)])
    index = mhe.clusters.cluster(model.predict(images), labels, per_class=3)
    probabilities = mhe.clusters.knc(model.predict(others), index)

Clustering needs scikit-learn, from the extra `train`.

Reference: Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)).
"""

from mhe.clusters.batches import MagnetBatches, RefreshClusters
from mhe.clusters.evaluation import attribute_concentration, knc
from mhe.clusters.index import ClusterError, ClusterIndex, cluster

__all__ = [
    "ClusterError",
    "ClusterIndex",
    "MagnetBatches",
    "RefreshClusters",
    "attribute_concentration",
    "cluster",
    "knc",
]
