"""Optimizer for large embedding tables: rows that a batch does not use are neither read nor written."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

EPSILON = 1e-10


class RowWise(torch.optim.Adam):
    """Adam, and row-wise Adagrad for tables with sparse gradients: a table of (N, D) has a state of N numbers, not 2 N D.

    A row's rate falls with the square root of the sum, over the steps that touched it, of its mean squared gradient (Adagrad,
    Duchi et al., JMLR 2011; one number a row as in DLRM, Mudigere et al., ISCA 2022, and FBGEMM's EXACT_ROWWISE_ADAGRAD).
    Without sparse gradients this is torch's Adam. A sparse gradient is None after the step, as after `zero_grad`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None and table.grad.is_sparse:
                    self._step_rows(table, group["lr"])
                    table.grad = None
        super().step()
        return loss

    def _step_rows(self, table: Tensor, rate: float) -> None:
        gradient, state = table.grad.coalesce(), self.state[table]
        if not state:
            state["squares"] = table.new_zeros(len(table))
            state["step"] = torch.zeros(())  # Adam expects it in every state it loads
        rows, values = gradient.indices()[0], gradient.values()
        state["step"] += 1
        sums = state["squares"][rows] + values.square().mean(1)
        state["squares"][rows] = sums
        table.index_add_(0, rows, values * (-rate / (sums.sqrt() + EPSILON)).unsqueeze(1))


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `most`; return the norm before clipping. Like torch's
    `clip_grad_norm_`, which fails on sparse gradients."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # the norm of a row is the norm of its summed gradient
        values.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = nn.utils.get_total_norm(values)
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)
    return norm
