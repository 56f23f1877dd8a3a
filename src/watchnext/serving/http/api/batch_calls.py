"""`POST /v1/recommend:batch`: many requests for a slate in one call, answered one by one and in order."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError, WrapValidator

from watchnext.serving.http.api.errors import Json, answer_to
from watchnext.serving.http.api.schemas import ErrorResponse, RecommendRequest, RecommendResponse, Strict
from watchnext.serving.http.worker_pool import OverloadedError, TooSlowError, WorkerPool

REQUESTS_MOST = 100  # of one batch


class BatchRequest(Strict):
    # As they were given: each is validated when its turn comes, so that the others count where one is wrong.
    requests: list[Annotated[RecommendRequest, WrapValidator(lambda given, _: given)]] = Field(
        min_length=1,
        max_length=REQUESTS_MOST,
        description="bodies of `/v1/recommend`; the priority of one that names none is low",
    )


class BatchedAnswer(Strict):
    """The answer that the request would have had as a call of its own."""

    status: int
    answer: RecommendResponse | ErrorResponse


class BatchResponse(Strict):
    answers: list[BatchedAnswer] = Field(description="one for each request, in order")


class BatchCalls:
    """Answer batches through the pool that single requests use, so that they cannot starve these.

    A batch has one request in the pool at a time, all batches together at most half as many as the pool has threads (one at
    least), and each joins the end of the queue. At most `batches` are under way; requests whose turn has not come `batch_s`
    seconds after their batch are answered with an error. `serving()` returns what answers a single request.
    """

    def __init__(
        self,
        serving: Callable[[], Any],
        pool: WorkerPool,
        *,
        threads: int,
        batches: int,
        batch_s: float,
        timeout_s: float,
    ) -> None:
        self._serving, self._pool = serving, pool
        self._most, self._batch_s, self._timeout_s = batches, batch_s, timeout_s
        self._turns, self._under_way = asyncio.Semaphore(max(1, threads // 2)), 0

    async def recommend(self, body: BatchRequest, request: Request, request_id: str) -> dict:
        """Return a BatchResponse. Raises OverloadedError."""
        if self._under_way >= self._most:
            raise OverloadedError(f"{self._under_way} batches are under way, expected at most {self._most}")
        self._under_way += 1
        until = time.monotonic() + self._batch_s
        try:
            return {"answers": await self._answers(body.requests, request, request_id, until)}
        finally:
            self._under_way -= 1

    async def _answers(self, requests: Sequence, request: Request, request_id: str, until: float) -> list[dict]:
        answers = []
        for at, given in enumerate(requests):
            try:
                status, content = 200, await self._slate(given, f"{request_id}-{at}", until)
            except Exception as error:
                refusal = answer_to(request, error)
                status, content = refusal.status_code, refusal.body
            answers.append({"status": status, "answer": orjson.Fragment(content)})
        return answers

    async def _slate(self, given: Any, request_id: str, until: float) -> bytes:
        """Return a RecommendResponse as JSON, which its thread writes: all of a batch at once would hold up the event loop."""
        body = _validated(given)
        priority = body.priority if "priority" in body.model_fields_set else "low"
        async with self._turns:
            left_s = min(self._timeout_s, until - time.monotonic())
            if left_s <= 0:
                raise TooSlowError(f"the turn of this request did not come within the {self._batch_s:g} s of a batch")
            # Only now: the release may have been replaced since the request before.
            recommend = partial(self._serving().recommend, body, request_id=request_id, until=time.monotonic() + left_s)
            return await self._pool.run(partial(_written, recommend), timeout_s=left_s, priority=priority)


def _written(call: Callable[[], dict]) -> bytes:
    return Json(call()).body


def _validated(given: Any) -> RecommendRequest:
    """Validate as FastAPI does. Raises RequestValidationError, with fields named as in a call for one slate."""
    try:
        return RecommendRequest.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
