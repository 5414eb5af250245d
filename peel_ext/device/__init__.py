"""What runs on the device: NumPy and the native core, no torch."""

from peel_ext.device.embedding import PersonalizedElasticEmbedding

__all__ = ["PersonalizedElasticEmbedding"]
