"""Few-shot learning: episodes, prototypical networks, and the evaluation of an embedding.

An episode is a small classification task: `ways` classes drawn for it, with `shots` images each to
make a prototype from (the support) and `queries` images each to classify. A network trained on
many episodes embeds images of classes it has never seen so that the mean of a few of them
represents the class.

Reference: Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017
(arXiv 1703.05175).
"""

from mhe.fewshot.batches import EpisodeBatches
from mhe.fewshot.episodes import Episodes
from mhe.fewshot.evaluation import Evaluation, evaluate
from mhe.fewshot.network import DISTANCES, PrototypicalNetwork, episode_logits

__all__ = [
    "DISTANCES",
    "EpisodeBatches",
    "Episodes",
    "Evaluation",
    "PrototypicalNetwork",
    "episode_logits",
    "evaluate",
]
