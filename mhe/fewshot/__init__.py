"""Few shots: episodes, prototypical networks, and how well an embedding does without training.

An episode is a small task of classes that were drawn for it: `ways` classes, `shots` images each
to make a prototype from (the support) and `queries` images each to classify. A network that is
trained on many such tasks embeds images of classes it never saw so that the mean of a few of them
stands for the class.

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
