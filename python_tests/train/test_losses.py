from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from peel_ext.train.losses import draw_candidates, full_softmax_loss, sampled_softmax_loss

SEED = 7


def plain_loss(
    users: Tensor,
    items: Tensor,
    indptr: Tensor,
    positives: Tensor,
    temperature: float,
    weights: Tensor,
    negative_weights: Tensor | None = None,
) -> Tensor:
    offsets = torch.zeros(len(items)) if negative_weights is None else negative_weights.log()
    losses = []
    for user, scores in enumerate(users @ items.T / temperature):
        wanted = positives[indptr[user] : indptr[user + 1]]
        is_negative = torch.ones(len(items), dtype=torch.bool)
        is_negative[wanted] = False
        candidates = [
            torch.cat([scores[i : i + 1], (scores + offsets)[is_negative]]) for i in wanted
        ]
        losses.append(-torch.stack([torch.log_softmax(each, 0)[0] for each in candidates]).mean())
    return (torch.stack(losses) * weights).sum() / weights.sum()


def make_case(
    counts: list[int], num_items: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    print(f"seed {SEED}")
    generator = torch.Generator().manual_seed(SEED)
    users = F.normalize(torch.randn(len(counts), dim, generator=generator, dtype=dtype))
    items = F.normalize(torch.randn(num_items, dim, generator=generator, dtype=dtype))
    indptr = torch.tensor([0, *counts]).cumsum(0)
    positives = torch.cat([torch.randperm(num_items, generator=generator)[:n] for n in counts])
    weights = torch.rand(len(counts), generator=generator, dtype=dtype) + 0.1
    return users.requires_grad_(), items.requires_grad_(), indptr, positives, weights


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 23 * 4, 2**24])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_loss_and_gradients_equal_the_plain_formula(
    chunk_bytes: int, dtype: torch.dtype, tolerance: float
) -> None:
    users, items, indptr, positives, weights = make_case([1, 4, 23, 2, 7], 23, 6, dtype)
    negative_weights = torch.arange(1, 24, dtype=dtype) / 5
    arguments = (users, items, indptr, positives, 0.1, weights)

    expected = plain_loss(*arguments, negative_weights)
    expected_gradients = torch.autograd.grad(3 * expected, (users, items))
    loss = full_softmax_loss(*arguments, negative_weights=negative_weights, chunk_bytes=chunk_bytes)
    gradients = torch.autograd.grad(3 * loss, (users, items))

    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradients, expected_gradients, rtol=tolerance, atol=tolerance)


def test_gradients_pass_the_finite_difference_check() -> None:
    users, items, indptr, positives, weights = make_case([2, 1, 3], 5, 3, torch.float64)

    assert torch.autograd.gradcheck(
        lambda u, i: full_softmax_loss(u, i, indptr, positives, 0.5, weights, chunk_bytes=80),
        (users, items),
    )


def test_equal_weights_are_the_default() -> None:
    users, items, indptr, positives, weights = make_case([2, 1, 3], 5, 3, torch.float64)

    torch.testing.assert_close(
        full_softmax_loss(users, items, indptr, positives, 0.1),
        full_softmax_loss(
            users,
            items,
            indptr,
            positives,
            0.1,
            4 * torch.ones_like(weights),
            negative_weights=torch.ones(5, dtype=torch.float64),
        ),
    )


def test_a_repeated_positive_counts_twice() -> None:
    users, items, _, _, _ = make_case([1, 1], 5, 3, torch.float64)
    indptr, positives = torch.tensor([0, 3, 4]), torch.tensor([2, 2, 4, 0])

    expected = plain_loss(users, items, indptr, positives, 0.1, torch.ones(2))
    loss = full_softmax_loss(users, items, indptr, positives, 0.1)

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, (users, items)), torch.autograd.grad(expected, (users, items))
    )


def test_low_temperatures_do_not_overflow() -> None:
    users, items, indptr, positives, weights = make_case([1, 4, 2], 23, 6, torch.float32)

    loss = full_softmax_loss(users, items, indptr, positives, 1e-3, weights)
    loss.backward()  # type: ignore[no-untyped-call]

    expected = plain_loss(users, items, indptr, positives, 1e-3, weights)
    torch.testing.assert_close(loss, expected)
    assert users.grad is not None
    assert users.grad.isfinite().all()


def test_only_one_side_may_want_a_gradient() -> None:
    users, items, indptr, positives, _ = make_case([1, 4, 2], 23, 6, torch.float64)

    full_softmax_loss(users.detach(), items, indptr, positives, 0.1).backward()  # type: ignore[no-untyped-call]
    without = full_softmax_loss(users.detach(), items.detach(), indptr, positives, 0.1)

    assert users.grad is None
    assert items.grad is not None
    assert not without.requires_grad


def test_no_tensor_is_larger_than_the_limit() -> None:
    users, items, indptr, positives, _ = make_case([1] * 300, 500, 4, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        full_softmax_loss(users, items, indptr, positives, 0.1, chunk_bytes=40_000).backward()  # type: ignore[no-untyped-call]

    largest = max(abs(event.cpu_memory_usage) for event in profile.events())
    assert largest <= 2 * 40_000  # two score matrices; users x items would be 600,000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": torch.tensor([0, 1, 1])}, "at least one positive"),
        ({"indptr": torch.tensor([0, 2])}, r"shape \(3,\)"),
        ({"indptr": torch.tensor([0, 1, 3])}, "2 positives"),
        ({"temperature": 0.0}, "temperature"),
        ({"weights": torch.ones(3)}, r"^weights must have shape \(2,\)"),
        ({"negative_weights": torch.tensor([1.0, 1, 0, 1, 1])}, "negative_weights must be above"),
        ({"negative_weights": torch.ones(2)}, r"^negative_weights must have shape \(5,\)"),
        ({"items": torch.ones(5, 2)}, "equal width"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    users, items, indptr, positives, _ = make_case([1, 1], 5, 3, torch.float32)
    arguments = {"users": users, "items": items, "indptr": indptr, "positives": positives}
    if message == "at least one positive":
        arguments["positives"] = positives[:1]

    with pytest.raises(ValueError, match=message):
        full_softmax_loss(**{**arguments, "temperature": 0.1, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        *("users", "items", "indptr", "positives"),
        *("weights", "negative_weights", "positive_weights"),
    ],
)
def test_tensors_without_memory_are_named(name: str) -> None:
    users, items, indptr, positives, weights = make_case([1, 1], 5, 3, torch.float32)
    arguments = {
        "users": users.detach(),
        "items": items.detach(),
        "indptr": indptr,
        "positives": positives,
        "weights": weights,
        "negative_weights": torch.ones(5),
        "positive_weights": torch.ones(2),
    }
    arguments[name].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"^{name} must have memory, got shape"):
        full_softmax_loss(**arguments, temperature=0.1)


def test_a_sample_of_all_items_gives_the_full_loss() -> None:
    users, items, indptr, positives, weights = make_case([1, 4, 23, 2, 7], 23, 6, torch.float64)
    arguments = (users, items, indptr, positives, 0.1, weights)
    negative_weights = torch.arange(1, 24, dtype=torch.float64) / 5
    full = full_softmax_loss(*arguments, negative_weights=negative_weights)
    for chunk_users in (1, 2, 9):
        sampled = sampled_softmax_loss(
            *arguments,
            negative_weights=negative_weights,
            num_negatives=23,
            generator=torch.Generator(),
            chunk_users=chunk_users,
        )
        torch.testing.assert_close(sampled, full)
        torch.testing.assert_close(
            torch.autograd.grad(2 * sampled, (users, items)),
            torch.autograd.grad(2 * full, (users, items), retain_graph=True),
        )


def test_the_sampled_sum_is_right_on_average() -> None:
    users, items, _, _, _ = make_case([1], 60, 6, torch.float64)
    exponentials = (items @ users[0] / 0.5).exp().detach()
    positives = torch.tensor([3, 3, 41])
    generator = torch.Generator().manual_seed(SEED)
    sums = []
    for _ in range(4000):
        candidates, counts = draw_candidates(positives, 60, 9, generator)
        sums.append(float((exponentials[candidates] * counts).sum()))
        assert torch.equal(candidates, candidates.unique())
        assert torch.equal(counts[torch.isin(candidates, positives)], torch.ones(2))
        assert float(counts.sum()) == pytest.approx(60)
    spread = torch.tensor(sums).std().item() / len(sums) ** 0.5
    assert abs(sum(sums) / len(sums) - exponentials.sum().item()) < 4 * spread


def test_the_sampled_gradient_is_that_of_the_sampled_loss() -> None:
    users, items, indptr, positives, weights = make_case([2, 1, 3], 30, 3, torch.float64)

    def loss(users: Tensor, items: Tensor) -> Tensor:
        return sampled_softmax_loss(
            users, items, indptr, positives, 0.5, weights,
            num_negatives=8, generator=torch.Generator().manual_seed(SEED), chunk_users=2,
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (users, items))


def test_sampling_needs_a_negative() -> None:
    users, items, indptr, positives, _ = make_case([1, 1], 5, 3, torch.float32)
    with pytest.raises(ValueError, match="num_negatives must be at least 1, got 0"):
        sampled_softmax_loss(
            users, items, indptr, positives, 0.1, num_negatives=0, generator=torch.Generator()
        )
