"""Tables of ids cut by row: each of several processes that train together keeps a part of every `FullTable`.

Torch's DTensor knows where the rows are, and moves them. A batch sends its ids to all processes and gets back the vectors.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.functional import embedding, pad
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from watchnext.nn.id_tables import FullTable

ROWS = (Shard(0),)


def looked_up(table: FullTable, rows: Tensor) -> Tensor:
    """Look up this process's `rows` (...) in a sharded table: vectors (..., dimension). Every process must call it at once."""
    mesh, ids = table.weight.device_mesh, rows.flatten()
    longest = torch.tensor(len(ids), device=ids.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX, group=mesh.get_group())
    # DTensor takes parts of one length; batches need not divide by the number of processes.
    parts = DTensor.from_local(pad(ids, (0, int(longest) - len(ids))), mesh, ROWS, run_check=False)
    vectors = embedding(parts.redistribute(placements=[Replicate()]), table.weight).redistribute(placements=ROWS)
    return vectors.to_local()[: len(ids)].unflatten(0, rows.shape)


def shard_tables(network: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Cut every `FullTable` by row over the processes of `mesh`, which hold it whole; return the names of the parameters."""
    for table in _tables(network):
        table.weight = nn.Parameter(distribute_tensor(table.weight.detach(), mesh, ROWS))
        # Every process adds its rows' gradients; those of other parameters are averaged.
        table.weight.register_hook(partial(torch.mul, other=1 / mesh.size()))
        table.forward = partial(looked_up, table)
    return [name for name, parameter in network.named_parameters(remove_duplicate=False) if is_sharded(parameter)]


def gather_tables(network: nn.Module) -> None:
    """Undo `shard_tables`: every process holds every table. Every process must call it at once."""
    for table in _tables(network):
        if is_sharded(table.weight):
            table.weight = nn.Parameter(whole(table.weight))
            del table.forward


def _tables(network: nn.Module) -> Iterable[FullTable]:
    return [module for module in network.modules() if isinstance(module, FullTable)]


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as one in this process's memory, others unchanged. Every process must call it at once."""
    return tensor.detach().full_tensor().cpu() if is_sharded(tensor) else tensor


def placed_as(tensor: Tensor, other: Tensor) -> Tensor:
    """Return of a whole `tensor`, which every process holds, the part that this process has of `other`."""
    if is_sharded(tensor) or not is_sharded(other):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def clip_to_norm(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale gradients to a norm of at most `most` over all processes, as `clip_grad_norm_`, which takes no mixture of sharded
    and other parameters."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = [[each for each in trained if is_sharded(each) is kind] for kind in (True, False)]
    norms = [whole(get_total_norm([each.grad for each in kind])).to(trained[0].device) for kind in kinds if kind]
    total = torch.stack(norms).norm()
    for kind in kinds:
        clip_grads_with_norm_(kind, most, total, foreach=False)


class ShardedTables(DDPStrategy):
    """Lightning's DDP that shards tables while a network is fitted: weights, gradients and Adam's moments.

    Checkpoints and the fitted network are whole: training goes on with any number of processes, sharded or not.
    """

    def configure_ddp(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        names = shard_tables(self.lightning_module, mesh)
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.lightning_module, names)
        super().configure_ddp()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {name: whole(tensor) for name, tensor in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        saved = super().optimizer_state(optimizer)
        moments = {index: {key: whole(each) for key, each in state.items()} for index, state in saved["state"].items()}
        return {**saved, "state": moments}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for index, moments in saved["state"].items():
                like = parameters[index]
                moments |= {key: placed_as(each, like) for key, each in moments.items() if each.shape == like.shape}
        super().load_optimizer_state_dict(checkpoint)

    def teardown(self) -> None:
        trainer = self.lightning_module.trainer
        if (
            trainer.state.fn == TrainerFn.FITTING and not trainer.interrupted
        ):  # an interrupted process would wait for the others
            gather_tables(self.lightning_module)
        super().teardown()
