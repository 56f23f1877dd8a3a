"""Tables cut by row in two processes: they learn what one process learns, of parts, and go on from whole tables."""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from watchnext.nn.id_tables import FullTable, HashedTable
from watchnext.nn.sharding import clip_to_norm, gather_tables, placed_as, shard_tables, whole
from watchnext.nn.training import adam

ROWS, DIMENSION, STEPS = 101, 4, 8


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ids = FullTable(rows=ROWS, dimension=DIMENSION, std=1.0)
        self.hashed = HashedTable(rows=ROWS, dimension=DIMENSION, std=1.0, buckets=7)
        self.out = nn.Linear(6 * DIMENSION, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.ids(rows), self.hashed(rows)], dim=-1).flatten(-2)).squeeze(-1)


def learned(network: nn.Module, optimizer: torch.optim.Optimizer, model: nn.Module, *, process: int, of: int) -> list[float]:
    """Losses of this process's part of every batch, weighted so that their mean is that of the batch."""
    losses, random = [], torch.Generator().manual_seed(1)
    for step in range(STEPS):
        size = 9 - step % 2  # odd: the parts differ in length
        rows, wanted = torch.randint(ROWS, (size, 3), generator=random), 9 * torch.randn(size, generator=random)
        own = slice(process, None, of)
        loss = (model(rows[own]) - wanted[own]).square().sum() * of / size
        optimizer.zero_grad()
        loss.backward()
        clip_to_norm(network.parameters(), 1.0 if step < 4 else 1e9)  # clipped by much, then not at all
        optimizer.step()
        losses.append(loss.item())
    return losses


def numbers(network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """How many this process holds of tables and their moments."""
    tables = (network.ids.weight, network.hashed.table.weight)
    held = [
        each for table in tables for each in (table, optimizer.state[table]["exp_avg"], optimizer.state[table]["exp_avg_sq"])
    ]
    return sum((each.to_local() if hasattr(each, "to_local") else each).untyped_storage().nbytes() // 4 for each in held)


def sharded(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=process, world_size=2)
    network = Network()
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = shard_tables(network, init_device_mesh("cpu", (2,)))
    now = network.state_dict()
    same = all(torch.equal(whole(placed_as(start[name], now[name])), start[name]) for name in names)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, names)
    optimizer = adam(network, learning_rate=0.1, weight_decay=0.1)
    losses = learned(network, optimizer, DistributedDataParallel(network), process=process, of=2)
    held = numbers(network, optimizer)
    gather_tables(network)
    rows = torch.arange(ROWS)
    found = {"losses": losses, "names": names, "same": same, "held": held, "weights": network.state_dict()}
    torch.save(found | {"vectors": network.ids(rows).detach()}, f"{folder}/{process}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GLOO_SOCKET_IFNAME", "lo")
        multiprocessing.start_processes(sharded, (str(folder),), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{process}.pt") for process in range(2)]


@pytest.fixture(scope="module")
def one() -> tuple[list[float], Network, int]:
    network = Network()
    optimizer = adam(network, learning_rate=0.1, weight_decay=0.1)
    losses = learned(network, optimizer, network, process=0, of=1)
    return losses, network, numbers(network, optimizer)


def test_two_processes_learn_what_one_learns(one, two):
    losses, network, _ = one
    torch.testing.assert_close(
        [sum(pair) / 2 for pair in zip(*(each["losses"] for each in two), strict=True)], losses, rtol=1e-5, atol=0
    )
    for each in two:
        torch.testing.assert_close(each["weights"], dict(network.state_dict()), rtol=1e-4, atol=1e-5)
        assert torch.equal(each["vectors"], each["weights"]["ids.weight"])  # a table as any other again
    assert not torch.allclose(network.ids.weight, Network().ids.weight, atol=0.1)


def test_each_holds_half_of_every_table_and_of_its_moments(one, two):
    assert [each["names"] for each in two] == [["ids.weight", "hashed.table.weight"]] * 2
    assert one[2] == 3 * (ROWS + 7) * DIMENSION
    assert sum(each["held"] for each in two) <= one[2] + 3 * 2 * DIMENSION  # parts of one length
    assert max(each["held"] for each in two) == 3 * (51 + 4) * DIMENSION


def test_a_whole_table_is_cut_as_the_sharded_one_and_joined_again(two):
    assert all(each["same"] for each in two)


def test_clipping_without_sharded_tables_is_that_of_torch():
    first, second = Network(), Network()
    for network in (first, second):
        network(torch.arange(6).view(2, 3)).square().sum().backward()
    clip_to_norm(first.parameters(), 0.1)
    nn.utils.clip_grad_norm_(second.parameters(), 0.1)
    torch.testing.assert_close([p.grad for p in first.parameters()], [p.grad for p in second.parameters()])
