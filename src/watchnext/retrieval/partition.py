"""The log partition of many queries over one pool of videos: where a softmax over shared negatives spends its time."""

import torch
from torch import Tensor

ROWS = 256  # logits of so many queries at a time stay in the processor's cache


class _LogPartition(torch.autograd.Function):
    """Written out because autograd would walk over the (M, N) logits a dozen times; here they are written once, read twice."""

    @staticmethod
    def forward(ctx, queries: Tensor, pool: Tensor, masked_queries: Tensor, masked_videos: Tensor) -> Tensor:
        shares, across = queries.new_empty(len(queries), len(pool)), pool.T.contiguous()
        largest, sums = queries.new_empty(len(queries), 1), queries.new_empty(len(queries), 1)
        bounds = torch.searchsorted(masked_queries, torch.arange(0, len(queries) + ROWS, ROWS, device=queries.device)).tolist()
        for part, start in enumerate(range(0, len(queries), ROWS)):
            rows, hits = slice(start, start + ROWS), slice(bounds[part], bounds[part + 1])
            logits = torch.mm(queries[rows], across, out=shares[rows])
            logits[masked_queries[hits] - start, masked_videos[hits]] = float("-inf")
            # A row that is masked whole has no largest; its sum of nothing is 0 and its log partition -inf.
            largest[rows] = logits.amax(1, keepdim=True).clamp(min=-1e30)
            sums[rows] = logits.sub_(largest[rows]).exp_().sum(1, keepdim=True)
        ctx.save_for_backward(queries, pool, shares, sums)
        return (sums.log() + largest).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        queries, pool, shares, sums = ctx.saved_tensors
        scaled = gradient[:, None] / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        return (shares @ pool) * scaled, shares.T @ (queries * scaled), None, None


def log_partition(queries: Tensor, pool: Tensor, hits: tuple[Tensor, Tensor]) -> Tensor:
    """log sum_j exp(queries_i . pool_j) (M,) of queries (M, D) and pool (N, D) without the pairs `hits`: places of queries,
    ascending, and of videos in the pool."""
    return _LogPartition.apply(queries, pool, *hits)


def hits_of(positives: Tensor, pool_rows: Tensor, videos: int) -> tuple[Tensor, Tensor]:
    """Where a query's own positive stands in a pool of distinct rows: (query places ascending, pool places)."""
    place = torch.full((videos,), -1, dtype=torch.int64, device=pool_rows.device)
    place[pool_rows] = torch.arange(len(pool_rows), device=pool_rows.device)
    found = place[positives]
    queries = (found >= 0).nonzero().squeeze(1)
    return queries, found[queries]
