"""gathered_score against its reference, and its contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scored_tables import PACKED, integers, lists, make_packed

from peel_ext import (
    ElasticEmbedding,
    _core,
    ops,
    reference,
)
from peel_ext.format import (
    ColumnsLayout,
    PlanesLayout,
    unpack_embedding,
)
from peel_ext.ops import _bridge


@pytest.mark.parametrize("users", [0, 1, 2, 5, 300])
@pytest.mark.parametrize("rows", [0, 1, 31, 32, 33, 500])
def test_dense_equals_reference_exactly(users: int, rows: int, generator) -> None:
    vectors, table = integers(generator, users, 9), integers(generator, rows, 9)
    indptr, seen = lists(generator, users, rows)
    for n in (1, 20, 200, 600):
        for excluded in ({}, dict(exclude_indptr=indptr, exclude=seen)):
            got = ops.gathered_score(vectors, table, n, **excluded)
            want = reference.gathered_score(vectors, table, n, **excluded)
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])


def test_candidates_equal_reference_exactly(generator) -> None:
    vectors, table = integers(generator, 6, 8), integers(generator, 100, 8)
    indptr, seen = lists(generator, 6, 100)
    for candidates in (torch.tensor([7, 3, 99, 3]), torch.arange(0), torch.arange(100)):
        options = dict(candidates=candidates, exclude_indptr=indptr, exclude=seen)
        got = ops.gathered_score(vectors, table, 10, **options)
        want = reference.gathered_score(vectors, table, 10, **options)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("name", PACKED)
def test_packed_equals_reference(name: str, generator) -> None:
    pee = make_packed(PACKED[name], generator)
    plain = unpack_embedding(pee.buffer)
    table = torch.zeros(pee.num_embeddings, pee.embedding_dim)
    table[torch.from_numpy(plain.ids)] = torch.from_numpy(plain.rows)
    candidates = torch.from_numpy(pee.row_ids)
    vectors = torch.randn(40, pee.embedding_dim, generator=generator)
    indptr, seen = lists(generator, 40, pee.num_embeddings)
    options = dict(exclude_indptr=indptr, exclude=seen)
    got = ops.gathered_score(vectors, pee, 25, **options)
    want = reference.gathered_score(vectors, table, 25, candidates=candidates, **options)
    assert torch.equal(got[0] < 0, want[0] < 0)
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-5)
    # Ids agree wherever their exact scores are not within rounding of each other.
    exact = vectors.double() @ table.double().T
    chosen = exact.gather(1, got[0].clamp(min=0)) - exact.gather(1, want[0].clamp(min=0))
    assert chosen.abs().max() < 1e-5
    numpy_ids, numpy_scores = pee.score(
        vectors.numpy(), 25, np.split(seen.numpy(), indptr.numpy()[1:-1])
    )
    assert np.array_equal(numpy_ids, got[0].numpy())
    assert np.array_equal(numpy_scores, got[1].numpy())


def test_a_score_does_not_depend_on_its_company(generator) -> None:
    vectors = torch.randn(300, 33, generator=generator)
    table = torch.randn(700, 33, generator=generator)
    together = ops.gathered_score(vectors, table, 15)
    before = _core.num_threads()
    try:
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            again = ops.gathered_score(vectors, table, 15)
            assert torch.equal(again[0], together[0])
            assert torch.equal(again[1], together[1])
            for user in (0, 150, 299):
                alone = ops.gathered_score(vectors[user : user + 1], table, 15)
                assert torch.equal(alone[0][0], together[0][user])
                assert torch.equal(alone[1][0], together[1][user])
    finally:
        _core.set_num_threads(before)


def test_strided_views(generator) -> None:
    vectors, table = integers(generator, 20, 30), integers(generator, 60, 30)
    for users, rows in ((vectors[::2, 3:12], table[::3, :9]), (vectors[:, ::3], table[:, ::3])):
        got = ops.gathered_score(users, rows, 5)
        want = reference.gathered_score(users, rows, 5)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


def test_nan_rows_are_never_returned() -> None:
    table = torch.tensor([[1.0], [float("nan")], [2.0]])
    indices, scores = ops.gathered_score(torch.ones(1, 1), table, 3)
    assert indices.tolist() == [[2, 0, -1]]
    assert scores.tolist() == [[2.0, 1.0, -torch.inf]]


def test_unsorted_exclusions_are_sorted() -> None:
    table = torch.arange(6.0)[:, None]
    options = dict(exclude_indptr=torch.tensor([0, 3]), exclude=torch.tensor([5, 0, 4]))
    assert ops.gathered_score(torch.ones(1, 1), table, 2, **options)[0].tolist() == [[3, 2]]


U, T = torch.rand(3, 4), torch.rand(6, 4)
P = torch.tensor([0, 1, 1, 2])
NAN = torch.tensor([[0.0, 1.0, 2.0, float("nan")]])


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (dict(n=0), ValueError, "n must be between 1 and 2147483647, got 0"),
        (dict(n=2.0), TypeError, "n must be an integer"),
        (dict(users=U.double()), TypeError, "users must be float32, got float64"),
        (dict(users=U[0]), ValueError, "users must have 2 dimensions"),
        (dict(users=U[:, :3]), ValueError, "users must have shape ('any', 4), got (3, 3)"),
        (dict(users=NAN), ValueError, "users[0] must be finite"),
        (dict(table=T.half()), TypeError, "table must be float32"),
        (dict(candidates=torch.tensor([6])), IndexError, "candidates contain 6, expected"),
        (dict(candidates=torch.tensor([1.0])), TypeError, "candidates must be int64"),
        (dict(exclude=P), ValueError, "exclude and exclude_indptr must be given together"),
        (
            dict(exclude=P[:2], exclude_indptr=P[:3]),
            ValueError,
            "exclude_indptr must have shape (4,)",
        ),
        (dict(exclude=P[:1], exclude_indptr=P), ValueError, "exclude_indptr must rise from 0 to 1"),
        (dict(exclude=P[:2] + 6, exclude_indptr=P), IndexError, "exclude[0] is 6"),
    ],
)
def test_rejects(change: dict, error: type[Exception], named: str) -> None:
    arguments = dict(users=U, table=T, n=2) | change
    with pytest.raises(error) as caught:
        ops.gathered_score(**arguments)
    assert named in str(caught.value)


class OtherTensor(torch.Tensor):
    """A class whose tensors may be more than memory."""


WIDE = torch.arange(48.0).reshape(6, 8) % 5


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("users", "table", "n", "adjacent"),
    [
        (U, T, 2, True),
        (U, T, 9, True),
        (U, torch.nn.Parameter(T), 2, True),
        (torch.nn.Parameter(U), T, 2, True),
        (U[:0], T, 2, True),
        (U, T[:0], 2, True),
        (U[:, :0], T[:, :0], 2, True),
        (WIDE[::2, 2:6], WIDE[:, 4:], 2, True),
        (U[:1].expand(3, 4), T[:1].expand(5, 4), 2, True),
        (torch.full((2, 4), 3e38), T, 2, True),  # finite, though their sum is not
        (WIDE[:, ::2], T, 2, False),
        (U, WIDE[:, 1::2], 2, False),
        (U, torch.rand(4, 6).T, 2, False),
        (U, T, np.int64(2), False),
        (U, T.as_subclass(OtherTensor), 2, False),
    ],
)
def test_what_is_read_natively_is_what_the_reference_gives(
    native: bool, users, table, n, adjacent: bool, on_cpu, monkeypatch
) -> None:
    if not native:  # as where torch does not offer it
        monkeypatch.setattr(_bridge, "_READER", None)
    with on_cpu():
        assert (_bridge.adjacent_score(users, table, n) is not None) == (adjacent and native)
        got = ops.gathered_score(users, table, n)
    plain = table.detach().as_subclass(torch.Tensor)
    want = reference.gathered_score(users.detach(), plain, int(n))
    assert torch.equal(got[0], want[0])
    assert torch.allclose(got[1], want[1])
    assert not got[1].requires_grad


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (dict(n=0), "n must be between 1 and 2147483647, got 0"),
        (dict(n=-1), "n must be between 1 and 2147483647, got -1"),
        (dict(n=2**70), "n must be between 1 and 2147483647, got 1180591620717411303424"),
        (dict(n=True), "n must be an integer, got True"),
        (dict(users=NAN), r"users\[0\] must be finite"),
        (dict(users=-1 / torch.zeros(2, 4)), r"users\[0\] must be finite"),
        (dict(users=U[0]), "users must have 2 dimensions"),
        (dict(users=U[:, :3]), "users must have shape"),
        (dict(users=U.double()), "users must be float32"),
        (dict(users=U.int()), "users must be float32"),
        (dict(users=U.tolist()), "users must be a tensor"),
        (dict(table=T.double()), "table must be float32"),
        (dict(table=T[0]), "table must have 2 dimensions"),
        (dict(table=T.numpy()), "table must be a tensor"),
        (dict(table=torch._efficientzerotensor(6, 4)), "table must have memory"),
    ],
)
def test_what_is_not_read_natively_is_told_by_the_longer_way(
    native: bool, change: dict, error: str, on_cpu, monkeypatch
) -> None:
    if not native:
        monkeypatch.setattr(_bridge, "_READER", None)
    with on_cpu(), pytest.raises((TypeError, ValueError), match=error):
        ops.gathered_score(**dict(users=U, table=T, n=2) | change)


@pytest.mark.parametrize("stride", [1, 2])
def test_one_column_of_conjugates_has_its_sign(stride: int, generator) -> None:
    column = torch.randn(4, dtype=torch.complex64, generator=generator).conj().imag
    column = column[:, None] if stride == 1 else column.as_strided((4, 1), (2, 2))
    assert column.is_neg()
    assert column.stride() == (2, stride)
    for users, table in ((column, T[:, :1]), (U[:, :1], column), (column, column)):
        got = ops.gathered_score(users, table, 3)
        want = reference.gathered_score(users.resolve_neg(), table.resolve_neg(), 3)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


def test_what_is_held_is_read_natively(generator, on_cpu, monkeypatch) -> None:
    pee = make_packed(PlanesLayout(), generator)
    users = torch.randn(3, pee.embedding_dim, generator=generator)
    with on_cpu():
        got = _bridge.adjacent_score(users, pee._pee, 5)
        assert got is not None
        assert _bridge.adjacent_score(users[:, 1:], pee._pee, 5) is None
        monkeypatch.setattr(_bridge, "_READER", None)
        want = ops.gathered_score(users, pee, 5)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.once
def test_opcheck() -> None:
    op = torch.ops.peel_ext.gathered_score.default
    torch.library.opcheck(op, (U, T, 2, None, None, None))
    torch.library.opcheck(op, (U, T, 9, torch.tensor([0, 3]), P, torch.tensor([0, 1])))


BOUNDED = [PlanesLayout((bits,)) for bits in (2, 4, 6, 8)]
BOUNDED += [ColumnsLayout(width, "int8") for width in (8, 13, 60)]
BOUNDED += [ColumnsLayout(width, "float32") for width in (8, 13, 60)]  # read where they lie


@pytest.mark.parametrize("layout", BOUNDED, ids=str)
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1.0, 1e30, 4.6e36])
def test_bounds_hold_at_every_magnitude(size: float, layout, generator) -> None:
    weight = torch.randn(3000, 60, generator=generator)
    pee = ElasticEmbedding.from_pretrained(weight, layout=layout).generate(0, 1 << 30)
    users = torch.rand(5, 60, generator=generator) * size
    # Five users at once are scored without bounds, one at a time with them.
    together = ops.gathered_score(users, pee, 10)
    for first, last in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 2), (1, 4), (1, 5)):
        some = ops.gathered_score(users[first:last], pee, 10)
        assert torch.equal(some[0], together[0][first:last])
        assert torch.equal(some[1], together[1][first:last])


@pytest.mark.parametrize("dim", [1, 7, 16, 32, 48, 60, 64, 128, 139])
@pytest.mark.parametrize("rows", [1e-44, 1e-30, 1e-9, 1.0, 1e9, 1e30])
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-11, 1.0, 1e11, 1e30])
def test_bounds_of_dense_rows_hold_at_every_magnitude(
    size: float, rows: float, dim: int, generator
) -> None:
    """Rows of all norms, those of the first too, that cancel, overflow or are no numbers."""
    weight = torch.randn(999, dim, generator=generator) * rows
    weight[::7] *= 10.0 ** torch.randint(-12, 12, (143, 1), generator=generator)
    liked = torch.randn(dim, generator=generator)
    alike = 1 + 1e-7 * torch.randn(len(weight[5::11]), dim, generator=generator)
    weight[5::11] = 4 * rows * liked * alike  # the best ones: their scores differ by roundings
    weight[500:600, 0] = torch.tensor([1e38, -1e38]).repeat(50)
    weight[600:700:9, -1] = torch.inf
    weight[700:800:9, -1] = torch.nan
    users = (liked + 0.1 * torch.randn(5, dim, generator=generator)) * size
    candidates = torch.randperm(999, generator=generator)[:700]
    for some in (None, candidates):
        together = ops.gathered_score(users, weight, 10, candidates=some)
        # Several users are scored without bounds, one with them.
        for first, last in ((0, 1), (1, 2), (2, 3), (3, 4), (1, 3), (2, 5), (0, 4)):
            few = ops.gathered_score(users[first:last], weight, 10, candidates=some)
            assert torch.equal(few[0], together[0][first:last])
            assert torch.equal(few[1], together[1][first:last])


@pytest.mark.parametrize("dim", [7, 16, 32, 48, 64, 100, 128, 139])
def test_bounds_of_dense_rows_cover_roundings(dim: int, generator) -> None:
    """Rows at a right angle to the user: their scores are little but roundings."""
    user = torch.randn(1, dim, generator=generator)
    weight = torch.randn(5000, dim, generator=generator)
    weight -= (weight @ user.T) / (user @ user.T) * user
    together = ops.gathered_score(user.repeat(5, 1), weight, 300)
    alone = ops.gathered_score(user, weight, 300)
    for one, all_alike in zip(alone, together, strict=True):
        assert torch.equal(one[0], all_alike[0])


def assert_parts_equal_all(users, table, n: int, indptr, seen, parts) -> None:
    """Users [first, last) of each part have the lists that they have among all."""
    together = ops.gathered_score(users, table, n, exclude_indptr=indptr, exclude=seen)
    for first, last in parts:
        some = ops.gathered_score(
            users[first:last],
            table,
            n,
            exclude_indptr=indptr[first : last + 1] - indptr[first],
            exclude=seen[indptr[first] : indptr[last]],
        )
        assert torch.equal(some[0], together[0][first:last])
        assert torch.equal(some[1], together[1][first:last])


@pytest.mark.parametrize("dim", [63, 64, 100])
def test_few_users_of_plain_rows_have_their_own_lists(dim: int, generator) -> None:
    """Up to four of a table beyond caches are scored one after another, with bounds."""
    rows = (1 << 24) // (4 * dim) + 50
    users = torch.randn(6, dim, generator=generator)
    weight = torch.randn(rows, dim, generator=generator)
    indptr, seen = lists(generator, 6, rows)
    assert_parts_equal_all(users, weight, 15, indptr, seen, ((0, 1), (0, 2), (3, 6), (1, 5)))


@pytest.mark.parametrize("n", [1, 20, 200])
@pytest.mark.parametrize("rows", [130, 1000, 1500])
def test_one_user_of_many_ties_equals_two(rows: int, n: int, generator) -> None:
    """Also where the rows that seem best are excluded, or no numbers."""
    weight = torch.randint(-2, 3, (rows, 4), generator=generator).float()
    weight[::9] = torch.nan
    weight[5] = torch.inf
    user = torch.tensor([[1.0, 2.0, 0.0, -1.0]])
    best = ops.gathered_score(user.repeat(2, 1), weight, rows // 3)[0][0]
    for exclude in (best[:0], best[::2].sort().values, best.sort().values):
        lists = torch.tensor([0, len(exclude), 2 * len(exclude)]), exclude.repeat(2)
        alone = ops.gathered_score(user, weight, n, exclude_indptr=lists[0][:2], exclude=exclude)
        both = ops.gathered_score(
            user.repeat(2, 1), weight, n, exclude_indptr=lists[0], exclude=lists[1]
        )
        for one, two in zip(alone, both, strict=True):
            assert torch.equal(one[0], two[0])


@pytest.mark.parametrize("layout", [PlanesLayout(), ColumnsLayout(8, "float32", 40)], ids=str)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_few_users_equal_many_in_a_table_of_several_widths(share, layout, generator) -> None:
    """Few users meet bounds, rows scored apart from their tiles and values where they lie."""
    weight = torch.randn(6000, 60, generator=generator)
    module = ElasticEmbedding.from_pretrained(weight, layout=layout)
    module.set_row_values(torch.rand(1, 6000, generator=generator) ** 4)
    pee = module.generate(0, int(share * module.generate(0, 1 << 30).nbytes))
    held, counts = np.unique(unpack_embedding(pee.buffer).held, return_counts=True)
    enough = 256 if layout.nested else 32  # for bounds, and for a whole tile
    assert (counts[held != 0] >= enough).sum() > 1
    users = torch.randn(5, 60, generator=generator)
    indptr, seen = lists(generator, 5, 6000)
    parts = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 2), (1, 4), (1, 5))
    assert_parts_equal_all(users, pee, 10, indptr, seen, parts)


def test_what_rounding_a_user_takes_away_is_added_to_bounds() -> None:
    """All of the best row's score comes from coordinates far smaller than the largest."""
    weight = torch.full((3000, 60), 0.01)
    weight[:, 0] = 0
    weight[2000, 1:] = 1
    pee = ElasticEmbedding.from_pretrained(weight, layout=ColumnsLayout(8, "int8")).generate(
        0, 1 << 30
    )
    user = torch.full((1, 60), 0.49)
    user[0, 0] = 31
    assert ops.gathered_score(user, pee, 1)[0].item() == 2000
