"""Row-wise Adagrad against a loop over all rows, and what stands beside it."""

import pytest
import torch
from benchmarks.leave_one_out.rowwise import RowWise, clip_gradients
from torch import nn

ROWS, DIMENSION, RATE = 30, 4, 0.1


def network(*, sparse: bool) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"table": nn.Embedding(ROWS, DIMENSION, sparse=sparse), "layer": nn.Linear(DIMENSION, 1)})


def batches(count: int) -> list[torch.Tensor]:
    """Rows below 20, some of them several times."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(20, (12,), generator=generator) for _ in range(count)]


def backward(model: nn.ModuleDict, rows: torch.Tensor) -> None:
    model.zero_grad()
    ((model["layer"](model["table"](rows)).squeeze(1) - rows.float() / 10) ** 2).sum().backward()


def optimizer_of(model: nn.ModuleDict) -> RowWise:
    groups = [{"params": model["table"].parameters(), "lr": RATE}, {"params": model["layer"].parameters(), "lr": 0.01}]
    return RowWise(groups)


def trained(model: nn.ModuleDict, optimizer: RowWise, steps: list[torch.Tensor]) -> nn.ModuleDict:
    for rows in steps:
        backward(model, rows)
        optimizer.step()
    return model


def test_it_is_the_formula_written_over_all_rows():
    found = trained(model := network(sparse=True), optimizer_of(model), batches(25))
    slow = network(sparse=False)
    adam, squares = torch.optim.Adam(slow["layer"].parameters(), lr=0.01), [0.0] * ROWS
    for rows in batches(25):
        backward(slow, rows)
        with torch.no_grad():
            for row in range(ROWS):
                gradient = slow["table"].weight.grad[row].clone()
                squares[row] += float((gradient**2).mean())
                if squares[row] > 0:
                    slow["table"].weight[row] -= RATE * gradient / squares[row] ** 0.5
        adam.step()
    for mine, other in zip(found.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_rows_without_a_gradient_stay_and_the_state_is_a_number_a_row():
    model = network(sparse=True)
    before = model["table"].weight.detach().clone()
    trained(model, optimizer := optimizer_of(model), batches(5))
    assert torch.equal(model["table"].weight[20:], before[20:])
    assert not torch.equal(model["table"].weight[:20], before[:20])
    state = optimizer.state[model["table"].weight]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {"squares": (ROWS,), "step": ()}
    assert not state["squares"][20:].any()


def test_a_restored_state_goes_on_as_if_never_stopped(tmp_path):
    steps = batches(12)
    whole = trained(model := network(sparse=True), optimizer_of(model), steps)
    half = network(sparse=True)
    trained(half, first := optimizer_of(half), steps[:6])
    torch.save({"network": half.state_dict(), "optimizer": first.state_dict()}, tmp_path / "half.pt")
    kept = torch.load(tmp_path / "half.pt", weights_only=True)
    again = network(sparse=True)
    again.load_state_dict(kept["network"])
    second = optimizer_of(again)
    second.load_state_dict(kept["optimizer"])
    trained(again, second, steps[6:])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_without_sparse_gradients_it_is_adam():
    found = trained(model := network(sparse=False), optimizer_of(model), batches(10))
    plain = network(sparse=False)
    adam = torch.optim.Adam(
        [{"params": plain["table"].parameters(), "lr": RATE}, {"params": plain["layer"].parameters(), "lr": 0.01}]
    )
    trained(plain, adam, batches(10))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))


def test_a_closure_is_run_before_the_step():
    model, rows = network(sparse=True), batches(1)[0]

    def closure() -> torch.Tensor:
        backward(model, rows)
        return torch.tensor(7.0)

    before = model["table"].weight.detach().clone()
    assert optimizer_of(model).step(closure) == 7.0
    assert not torch.equal(model["table"].weight, before)


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_is_that_of_torch_on_dense_gradients(most):
    sparse, dense = network(sparse=True), network(sparse=False)
    for model in (sparse, dense):
        backward(model, batches(1)[0])
    wanted = nn.utils.clip_grad_norm_(dense.parameters(), most)
    torch.testing.assert_close(clip_gradients(sparse.parameters(), most), wanted)
    for mine, other in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.to_dense(), other.grad)


def test_clipping_of_dense_gradients_has_the_bits_of_torch():
    mine, other = network(sparse=False), network(sparse=False)
    for model in (mine, other):
        backward(model, batches(1)[0])
    assert clip_gradients(mine.parameters(), 0.5) == nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine.parameters(), other.parameters(), strict=True))


def test_nothing_to_clip_is_a_norm_of_zero():
    assert clip_gradients(network(sparse=True).parameters(), 1.0) == 0.0
