"""Checkpoints that others load piece by piece into a module on the meta device bring everything."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peel_ext import ColumnsLayout, PlanesLayout, replace_embeddings

ROWS, DIM, GROUPS = 60, 12, 3
PLANES, COLUMNS = PlanesLayout(rows_per_block=8), ColumnsLayout(4)
OPTIONAL = (
    "block_weights", "item_group", "rotation", "row_mean", "refinement", "refinement_slot"
)  # fmt: skip


class Model(nn.Module):
    """A model whose own code makes its embedding elastic."""

    def __init__(self, layout: Any = PLANES) -> None:
        super().__init__()
        self.words = nn.Embedding(ROWS, DIM)
        replace_embeddings(self, num_groups=GROUPS, layout=layout)
        self.head = nn.Linear(DIM, 2)


def set_everything(words: Any, generator: torch.Generator) -> None:
    """Gives an embedding all the state it may have."""
    words.refine_rows(1, torch.tensor([3, 9]))
    nn.init.normal_(words.refinement, generator=generator)
    words.row_mean = torch.randn(DIM, generator=generator)
    if words.layout.nested:
        words.fit_rotation()
        words.set_row_values(torch.rand(GROUPS, ROWS, generator=generator))
    else:
        words.set_item_groups(torch.randint(0, 10, (ROWS,), generator=generator))
        words.block_weights.copy_(torch.rand(words.block_weights.shape, generator=generator))


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name in ("weight", *OPTIONAL):
        mine, want = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (want is None), name
        assert type(mine) is type(want), name
        if mine is not None:
            assert mine.dtype == want.dtype
            assert torch.equal(mine, want), name
    rows = torch.arange(ROWS)
    with ours.budget(2500), theirs.budget(2500):
        for group in range(GROUPS):
            assert torch.equal(ours(rows, group), theirs(rows, group))


def owner(model: nn.Module, key: str) -> tuple[Any, str]:
    path, _, name = key.rpartition(".")
    return model.get_submodule(path), name


def load(model: nn.Module, checkpoint: dict[str, Tensor]) -> set[str]:
    """Loads as transformers does, from what it can be told: returns the keys nothing asks for."""
    expected = model.state_dict()
    model.state_dict()  # asked more than once
    for key, value in checkpoint.items():
        module, name = owner(model, key)
        there = getattr(module, name)
        if key not in expected or there is None:
            continue
        if value.shape != there.shape:  # asked in this order
            raise AssertionError(key)
        own = value.clone().to(expected[key].dtype)
        setattr(module, name, own if name in module._buffers else nn.Parameter(own))
    for key in expected.keys() - checkpoint.keys():
        module, name = owner(model, key)
        empty = torch.empty_like(getattr(module, name), device="cpu")
        if not isinstance(empty, nn.Parameter) and name in module._parameters:
            empty = nn.Parameter(empty)
        setattr(module, name, empty)
    return checkpoint.keys() - expected.keys()


@pytest.mark.parametrize("layout", [PLANES, COLUMNS], ids=["planes", "columns"])
@pytest.mark.parametrize("what", ["everything", "nothing", "rotation", "block_weights"])
def test_pieces_come_along(what: str, layout: Any, generator) -> None:
    source = Model(layout)
    if what == "everything":
        set_everything(source.words, generator)
    elif what == "rotation" and layout.nested:
        source.words.fit_rotation()
    elif what == "block_weights":
        source.words.block_weights.copy_(torch.rand(source.words.block_weights.shape))
    with torch.device("meta"):
        model = Model(layout)
    assert load(model, source.state_dict()) == set()
    model.eval()
    assert_same(model.words, source.words)


def test_who_never_sets_a_mode_can_go_on(generator) -> None:
    """As accelerate, which dispatches a model without a word to its modules."""
    for is_set in (False, True):
        source = Model()
        if is_set:
            set_everything(source.words, generator)
        with torch.device("meta"):
            model = Model()
        load(model, source.state_dict())
        rows = torch.arange(ROWS)
        assert torch.equal(model.words(rows, 1), source.words(rows, 1))
        assert_same(model.words, source.words)
        load_again = Model()
        load_again.load_state_dict(model.state_dict())
        assert_same(load_again.words, source.words)


def test_what_was_set_before_loading_stays(generator) -> None:
    values = torch.rand(GROUPS, ROWS, generator=generator)
    with torch.device("meta"):
        model = Model()
        model.words.set_row_values(values)
    before = copy.deepcopy(model.words.item_group)
    expected = model.state_dict(keep_vars=True)
    assert torch.equal(expected["words.item_group"], before)
    # Who loads is told that these have values: transformers asks for this attribute.
    assert all(expected[f"words.{name}"]._is_hf_initialized for name in OPTIONAL)
    plain = {"words.weight": torch.randn(ROWS, DIM), "head.weight": torch.randn(2, DIM)}
    model.load_state_dict({**plain, "head.bias": torch.zeros(2)}, assign=True)
    assert torch.equal(model.words.item_group, before)
    assert model.words.rotation is None


@pytest.mark.parametrize("way", ["to_empty", "assign", "deepcopy"])
def test_other_ways_off_the_meta_device_leave_no_placeholder(way: str, generator) -> None:
    source = Model()
    with torch.device("meta"):
        model = Model()
    model.state_dict()
    if way == "deepcopy":
        model = copy.deepcopy(model)
    if way != "assign":
        model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict(), assign=way == "assign")
    assert_same(model.words, source.words)
    assert {name for name, _ in model.words.named_parameters()} == {"weight"}


def test_state_of_another_geometry_is_refused(generator) -> None:
    source = Model()
    set_everything(source.words, generator)
    for name, wrong in (
        ("refinement", torch.randn(2, DIM + 1)),
        ("item_group", torch.zeros(GROUPS, ROWS - 1, dtype=torch.int32)),
    ):
        with torch.device("meta"):
            model = Model()
        load(model, {**source.state_dict(), f"words.{name}": wrong})
        with pytest.raises(RuntimeError, match=f"{name} must have shape .*, the state_dict has"):
            model.eval()


def test_transformers_saves_and_loads_everything(tmp_path: Path, generator) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is absent")

    class Elastic(transformers.BertModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            replace_embeddings(self, "embeddings.word_embeddings", num_groups=GROUPS, layout=PLANES)

    config = transformers.BertConfig(
        vocab_size=ROWS, hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    for is_set in (True, False):
        model = Elastic(config)
        if is_set:
            set_everything(model.embeddings.word_embeddings, generator)
        model.save_pretrained(tmp_path / str(is_set))
        loaded, info = Elastic.from_pretrained(tmp_path / str(is_set), output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
        assert_same(loaded.embeddings.word_embeddings, model.embeddings.word_embeddings)
