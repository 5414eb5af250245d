"""The elastic embedding as a torch module."""

from peel_ext.nn.elastic_embedding import ElasticEmbedding

__all__ = ["ElasticEmbedding"]
