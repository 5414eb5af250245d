"""What runs on the device: NumPy and the native core, no torch."""

from peel_ext.device.embedding import PersonalizedElasticEmbedding
from peel_ext.device.fold_in import fold_in_mean

__all__ = ["PersonalizedElasticEmbedding", "fold_in_mean"]
