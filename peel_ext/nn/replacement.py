"""Making the embeddings of an existing model elastic."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from peel_ext.format import Layout
from peel_ext.nn.elastic_embedding import ElasticEmbedding, check_geometry


def replace_embeddings(
    model: nn.Module,
    names: str | Iterable[str] | None = None,
    *,
    num_groups: int = 1,
    layout: Layout | str = "planes",
) -> dict[str, ElasticEmbedding]:
    """Turns the ``nn.Embedding`` modules of a model into elastic ones, in place.

    Each stays the object it was, with its Parameter, options, hooks, dtype, device and mode: weights
    shared with other modules stay shared, optimisers made before go on, checkpoints of before
    load, and until a budget is set the model computes what it did. Either all are replaced or,
    after an error, none.

    Args:
        model: any module; an ``nn.Embedding`` itself has the name ``""``.
        names: of the embeddings in ``model.named_modules()``. None: every module that is exactly
            an ``nn.Embedding``; subclasses keep their own ways unless they are named, and
            then are refused.
        num_groups: as in :class:`ElasticEmbedding`.
        layout: as in :class:`ElasticEmbedding`.

    Returns:
        What was replaced, by name; empty if the model has no embedding.

    Raises:
        ValueError: a name the model does not have, or an embedding the layout does not fit.
        TypeError: a named module that is not exactly an ``nn.Embedding``.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if names is None:
        names = [name for name, module in modules.items() if type(module) is nn.Embedding]
    chosen: dict[str, nn.Embedding] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in modules:
            known = [name for name, module in modules.items() if type(module) is nn.Embedding]
            raise ValueError(f"names contain {name!r}, but the embeddings here are {known}")
        module = modules[name]
        if type(module) is not nn.Embedding:
            raise TypeError(
                f"{name!r} must be exactly a torch.nn.Embedding to be replaced, it is a "
                f"{type(module).__name__}"
            )
        try:
            check_geometry(module.embedding_dim, num_groups, layout)
        except ValueError as error:
            raise ValueError(f"{name!r} cannot be replaced: {error}") from error
        chosen[name] = module
    return {
        name: ElasticEmbedding.adopt(module, num_groups=num_groups, layout=layout)
        for name, module in chosen.items()
    }
