"""The log partition of many queries over one pool of videos: where a softmax over shared negatives spends its time."""

import torch
from torch import Tensor

ROWS = 256  # logits of so many queries at a time stay in the processor's cache


class _LogPartition(torch.autograd.Function):
    """Written out because autograd would walk over the (M, N) logits a dozen times; here they are written once, read twice.
    Weights come in where the exponentials are summed, which is a product with a vector instead of a sum."""

    @staticmethod
    def forward(ctx, queries: Tensor, pool: Tensor, masked_queries: Tensor, masked_videos: Tensor, weights: Tensor) -> Tensor:
        shares, across = queries.new_empty(len(queries), len(pool)), pool.T.contiguous()
        largest, sums = queries.new_empty(len(queries), 1), queries.new_empty(len(queries), 1)
        bounds = torch.searchsorted(masked_queries, torch.arange(0, len(queries) + ROWS, ROWS, device=queries.device)).tolist()
        for part, start in enumerate(range(0, len(queries), ROWS)):
            rows, hits = slice(start, start + ROWS), slice(bounds[part], bounds[part + 1])
            logits = torch.mm(queries[rows], across, out=shares[rows])
            logits[masked_queries[hits] - start, masked_videos[hits]] = float("-inf")
            # A row that is masked whole has no largest; its sum of nothing is 0 and its log partition -inf.
            largest[rows] = logits.amax(1, keepdim=True).clamp(min=-1e30)
            sums[rows] = logits.sub_(largest[rows]).exp_() @ weights[:, None]
        ctx.save_for_backward(queries, pool, shares, sums, weights)
        return (sums.log() + largest).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        queries, pool, shares, sums, weights = ctx.saved_tensors
        scaled = gradient[:, None] / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        of_pool = shares.T @ (queries * scaled)
        return (shares @ (pool * weights[:, None])) * scaled, of_pool * weights[:, None], None, None, None


def log_partition(queries: Tensor, pool: Tensor, hits: tuple[Tensor, Tensor], log_weights: Tensor) -> Tensor:
    """log sum_j exp(queries_i . pool_j + log_weights_j) (M,) of queries (M, D) and pool (N, D), without the pairs `hits`:
    places of queries, ascending, and of videos in the pool. The weights have no gradient."""
    return _LogPartition.apply(queries, pool, *hits, log_weights.to(queries.dtype).exp())
