"""Making the embeddings of an existing model elastic."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

from torch import nn

from peel_ext.errors import ReplacementWarning
from peel_ext.format import Layout
from peel_ext.nn.arguments import check_geometry
from peel_ext.nn.elastic_embedding import ElasticEmbedding


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

    A :class:`peel_ext.errors.ReplacementWarning` tells what a budget will not reach: embeddings that
    stay as they are, other parts that hold the Parameter of a replaced one, as an output layer with
    tied weights does, and replaced ones that share a Parameter but have a budget each.

    Args:
        model: any module; an ``nn.Embedding`` itself has the name ``""``.
        names: names of the embeddings in ``model.named_modules()``. None: every module that is exactly
            an ``nn.Embedding``. Subclasses and ``nn.EmbeddingBag`` stay as they are, for a lookup is
            not all they do; named, they are refused.
        num_groups: as in :class:`ElasticEmbedding`.
        layout: as in :class:`ElasticEmbedding`.

    Returns:
        What was replaced, by name; empty if the model has no embedding.

    Raises:
        ValueError: a name the model does not have, or an embedding the layout does not fit.
        TypeError: a named module that is not exactly an ``nn.Embedding``.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    remarks: list[str] = []
    if names is None:
        names = [name for name, module in modules.items() if type(module) is nn.Embedding]
        remarks += _tell_left_out(modules)
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
    for remark in [*remarks, *_tell_shared(model, chosen)]:
        warnings.warn(remark, ReplacementWarning, stacklevel=2)  # before anything is replaced
    return {
        name: ElasticEmbedding.adopt(module, num_groups=num_groups, layout=layout)
        for name, module in chosen.items()
    }


def _tell_left_out(modules: dict[str, nn.Module]) -> Iterator[str]:
    """Which embeddings stay as they are."""
    bags, others = [], []
    for name, module in modules.items():
        if isinstance(module, nn.EmbeddingBag):
            bags.append(f"{name!r} ({type(module).__name__}, {module.mode} of each bag)")
        elif (
            isinstance(module, nn.Embedding)
            and type(module) is not nn.Embedding
            and not isinstance(module, ElasticEmbedding)
        ):
            others.append(f"{name!r} ({type(module).__name__})")
    if bags:
        yield (
            f"not replaced, because the rows of a bag never leave it one by one: {', '.join(bags)}. "
            "Let an nn.Embedding of the same weight look them up, reduce its rows "
            "(embedding(ids).sum(dim=-2)), and that is replaced"
        )
    if others:
        yield (
            f"not replaced, because they do more than look rows up: {', '.join(others)}. Let them "
            "look up in an nn.Embedding of their own, and that is replaced"
        )


def _tell_shared(model: nn.Module, chosen: dict[str, nn.Embedding]) -> Iterator[str]:
    """What holds the Parameters of the chosen embeddings beside them, one that is here twice once."""
    names = {id(module): name for name, module in reversed(chosen.items())}
    holders: dict[int, list[str]] = {}
    for module in {id(module): module for module in chosen.values()}.values():
        holders.setdefault(id(module.weight), []).append(names[id(module)])
    for shared in holders.values():
        if len(shared) > 1:
            yield (
                f"{', '.join(map(repr, shared))} have the same Parameter but a budget each: enter "
                "those of all, or make them one module first"
            )
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holder = model.get_submodule(name.rpartition(".")[0])
        if id(parameter) in holders and id(holder) not in names:
            first = holders[id(parameter)][0]
            yield (
                f"{name!r} ({type(holder).__name__}) is the Parameter of {first!r}, and no budget of "
                f"{first!r} reaches it: read {first}.weight there instead, inside the budget"
            )
