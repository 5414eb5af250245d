"""The elastic embedding as a torch module."""

from peel_ext.nn.elastic_embedding import ElasticEmbedding
from peel_ext.nn.plain_operations import plain_module
from peel_ext.nn.replacement import replace_embeddings

__all__ = ["ElasticEmbedding", "plain_module", "replace_embeddings"]
