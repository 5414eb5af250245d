"""The side of the device: NumPy and the native core, no torch."""

from peel_ext.device.embedding import PersonalizedElasticEmbedding
from peel_ext.device.fold_in import (
    average_user,
    continue_vectors,
    fold_in_mean,
    fold_in_softmax,
    fold_in_users,
)
from peel_ext.device.recommender import DeviceRecommender
from peel_ext.device.scoring import score_rows
from peel_ext.device.similarity import similar_rows

__all__ = [
    "DeviceRecommender",
    "PersonalizedElasticEmbedding",
    "average_user",
    "continue_vectors",
    "fold_in_mean",
    "fold_in_softmax",
    "fold_in_users",
    "score_rows",
    "similar_rows",
]
