"""Id tables: one interface, stated sizes, the same vectors in every process."""

import itertools
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from watchnext.nn.embeddings import CodeEmbeddings
from watchnext.nn.id_tables import FullTable, HashedTable, QuotientRemainderTable
from watchnext.nn.weights import described, rebuilt

ROWS, DIMENSION = 1001, 8
TABLES = {
    "full": partial(FullTable),
    "quotient_remainder": partial(QuotientRemainderTable, collisions=7),
    "hashed": partial(HashedTable, buckets=300, hashes=3),
}
every_table = pytest.mark.parametrize("kind", TABLES)


def built(kind: str, **more) -> torch.nn.Module:
    torch.manual_seed(3)
    return TABLES[kind](**{"rows": ROWS, "dimension": DIMENSION, "std": 0.5} | more)


def numbers(table: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in table.parameters())


@every_table
@pytest.mark.parametrize("kind_of_row", [torch.int32, torch.int64])
def test_rows_of_any_shape_have_vectors(kind, kind_of_row):
    table, rows = built(kind), torch.randint(ROWS, (4, 5), dtype=kind_of_row)
    found = table(rows)
    assert found.shape == (4, 5, DIMENSION)
    torch.testing.assert_close(found[2, 3], table(rows[2, 3]))
    assert table(torch.empty(0, dtype=kind_of_row)).shape == (0, DIMENSION)


@every_table
def test_vectors_start_as_long_as_asked(kind):
    """Sizes of .5 to 1.5 of the product square to 13/12 on average; the sum of hashed terms keeps the deviation."""
    wanted = 0.5 * ((13 / 12) ** 0.5 if kind == "quotient_remainder" else 1.0)
    found = built(kind, dimension=64)(torch.arange(ROWS))
    assert float(found.detach().std()) == pytest.approx(wanted, rel=0.08)


def test_sizes_are_those_of_the_docstrings():
    assert numbers(built("full")) == ROWS * DIMENSION
    assert numbers(built("quotient_remainder")) == (143 + 7) * DIMENSION  # 1001 / 7 = 143
    assert numbers(built("quotient_remainder", rows=1002)) == (144 + 7) * DIMENSION
    assert numbers(built("hashed")) == numbers(built("hashed", rows=10**12)) == 300 * DIMENSION


def test_no_two_rows_share_quotient_and_remainder():
    table = built("quotient_remainder")
    assert len({(row // table.width, row % table.width) for row in range(ROWS)}) == ROWS
    vectors = table(torch.arange(ROWS)).detach()
    assert len(vectors.unique(dim=0)) == ROWS
    torch.testing.assert_close(vectors[150], table.remainders.weight[7] * table.quotients.weight[1])


def test_few_rows_share_all_hashes():
    table = built("hashed", rows=3000, buckets=500, hashes=2)
    expected = 3000**2 / 2 / (2 * 500) ** 2  # pairs that agree in both buckets and signs, in order
    assert 3000 - len(table(torch.arange(3000)).detach().unique(dim=0)) <= 2 * expected + 10
    vectors = torch.nn.functional.normalize(built("hashed", rows=3000, dimension=64)(torch.arange(3000)).detach(), dim=1)
    assert abs(float((vectors[:-1] * vectors[1:]).sum(1).mean())) < 0.02  # neighbours are as unlike as any


def test_buckets_are_used_evenly():
    table = built("hashed", buckets=50)
    seen = []
    table.table.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    table(torch.arange(50_000))
    for part in seen[0].T:
        counts = part.bincount(minlength=50)
        assert counts.min() > 800  # 1,000 expected
        assert counts.max() < 1200


@every_table
def test_gradients_are_those_of_finite_differences(kind):
    table, rows = built(kind).double(), torch.tensor([3, 1000, 3, 146])

    def of(*weights: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in table.named_parameters()]
        return torch.func.functional_call(table, dict(zip(names, weights, strict=True)), (rows,))

    assert torch.autograd.gradcheck(of, tuple(parameter.detach().requires_grad_() for parameter in table.parameters()))


PRINT = """
import torch
from functools import partial
from watchnext.nn.id_tables import *
torch.manual_seed(3)
table = {kind}(rows=1001, dimension=8, std=0.5, {more})
print(table(torch.tensor([0, 7, 500, 1000])).double().tolist())
"""


@pytest.mark.parametrize(
    ("kind", "more"), [("QuotientRemainderTable", "collisions=7"), ("HashedTable", "buckets=300, hashes=3")]
)
def test_another_process_finds_the_same_vectors(kind, more):
    """Python's own hashes differ from process to process."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT.format(kind=kind, more=more)], capture_output=True, text=True, check=True
    )
    mine = built({"HashedTable": "hashed", "QuotientRemainderTable": "quotient_remainder"}[kind])
    assert torch.equal(torch.tensor(eval(done.stdout)), mine(torch.tensor([0, 7, 500, 1000])))


@every_table
def test_saved_and_described_tables_are_the_same(kind, tmp_path):
    table = built(kind)
    save_file(table.state_dict(), tmp_path / "weights.safetensors")
    again = rebuilt(described(TABLES[kind]))(rows=ROWS, dimension=DIMENSION, std=0.5)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(again(torch.arange(ROWS)), table(torch.arange(ROWS)))


@every_table
def test_codes_of_features_have_rows_of_their_own(kind):
    layer = CodeEmbeddings(sizes=(3, 2), dimension=4, table=TABLES[kind])
    codes = torch.tensor(list(itertools.product(range(3), range(2))), dtype=torch.int32)
    assert torch.equal(layer(codes), torch.cat([layer.table(codes[:, 0]), layer.table(codes[:, 1] + 3)], dim=1))


@pytest.mark.parametrize(("kind", "wrong"), [("hashed", "buckets"), ("hashed", "hashes"), ("quotient_remainder", "collisions")])
def test_a_size_of_nothing_is_refused(kind, wrong):
    with pytest.raises(ValueError, match=f"{wrong} is 0, expected at least 1"):
        built(kind, **{wrong: 0})
