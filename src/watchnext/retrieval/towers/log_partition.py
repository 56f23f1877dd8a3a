"""Log-partition function of many queries over one pool of videos, the hot spot of a softmax over shared negatives."""

import torch
from torch import Tensor

ROWS = 256  # queries per block, so that their logits stay in the cache


class _LogPartition(torch.autograd.Function):
    """Custom gradient: autograd would traverse the (M, N) logits a dozen times; this writes them once and reads them twice.
    Weights enter in the sum of exponentials, as a product with a vector."""

    @staticmethod
    def forward(ctx, queries: Tensor, pool: Tensor, masked_queries: Tensor, masked_videos: Tensor, weights: Tensor) -> Tensor:
        shares, across = queries.new_empty(len(queries), len(pool)), pool.T.contiguous()
        largest, sums = queries.new_empty(len(queries), 1), queries.new_empty(len(queries), 1)
        bounds = torch.searchsorted(masked_queries, torch.arange(0, len(queries) + ROWS, ROWS, device=queries.device)).tolist()
        for part, start in enumerate(range(0, len(queries), ROWS)):
            rows, hits = slice(start, start + ROWS), slice(bounds[part], bounds[part + 1])
            logits = torch.mm(queries[rows], across, out=shares[rows])
            logits[masked_queries[hits] - start, masked_videos[hits]] = float("-inf")
            # A fully masked row has no largest logit; its sum is 0 and its log partition is -inf.
            largest[rows] = logits.amax(1, keepdim=True).clamp(min=-1e30)
            sums[rows] = logits.sub_(largest[rows]).exp_() @ weights[:, None]
        ctx.save_for_backward(queries, pool, shares, sums, weights)
        return (sums.log() + largest).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        queries, pool, shares, sums, weights = ctx.saved_tensors
        scaled = gradient[:, None] / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        pool_gradient = shares.T @ (queries * scaled)
        return (shares @ (pool * weights[:, None])) * scaled, pool_gradient * weights[:, None], None, None, None


def log_partition(queries: Tensor, pool: Tensor, hits: tuple[Tensor, Tensor], log_weights: Tensor) -> Tensor:
    """Compute log sum_j exp(queries_i . pool_j + log_weights_j) (M,) of queries (M, D) and pool (N, D), without the pairs
    `hits`: query positions, ascending, and pool positions. The weights have no gradient."""
    return _LogPartition.apply(queries, pool, *hits, log_weights.to(queries.dtype).exp())
