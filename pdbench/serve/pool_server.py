"""Serve an engine of a pool: see pool.py, and pool_router.py for who gets a request. Imports vLLM, which takes seconds."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import psutil
from ray import serve
from ray.serve.llm.deployment import LLMServer, PDDecodeServer

from pdbench.serve.pool import DECODE, PREFILL
from pdbench.serve.pool_work import Work

WATCH_S = 0.1  # between two looks at whether the engine is alive


class PoolServer(PDDecodeServer):
    """Takes a request as PD's decode replica does, or computes a prompt for another replica, which then takes it."""

    async def __init__(self, llm_config: Any, **kwargs: Any) -> None:
        here = serve.get_replica_context()
        # Until a table names them, one prefills.
        self.replica_id, self.role = here.replica_id.unique_id, DECODE if here.rank.rank else PREFILL
        self.running, self.ended, self.work = {PREFILL: 0, DECODE: 0}, {PREFILL: 0, DECODE: 0}, Work()
        siblings = serve.get_deployment_handle(here.deployment, here.app_name)
        await super().__init__(llm_config, prefill_server=siblings, **kwargs)
        self.watch = asyncio.create_task(self._end_with_engine())

    async def _end_with_engine(self) -> None:
        """End this process when its engine is dead, so that routers send their requests elsewhere.

        Ray Serve looks every 10 s, and acts the third time. Until then a dead engine fails requests at once, so that it has the
        least work and gets nearly all of them.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self.check_health()
            except Exception:
                for rest in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        rest.kill()
                os._exit(1)

    async def completions(self, request: Any, raw_request_info: Any = None) -> Any:
        """Answer a request, or compute its prompt where it says that another replica will read it."""
        if request.kv_transfer_params:
            return self._prefilled(request.prompt, await LLMServer.completions(self, request, raw_request_info))
        return self._answered(request.max_tokens, await super().completions(request, raw_request_info))

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any:
        """As `completions`, for a chat."""
        if request.kv_transfer_params:
            return self._prefilled(request.messages, await LLMServer.chat(self, request, raw_request_info))
        most = request.max_completion_tokens or request.max_tokens
        return self._answered(most, await super().chat(request, raw_request_info))

    async def _prefilled(self, prompt: Any, pieces: Any) -> Any:
        with self._counted(PREFILL), self.work.prefill(prompt) as computed:
            async for piece in pieces:
                if usage := getattr(piece, "usage", None):
                    computed(usage.prompt_tokens)
                yield piece

    async def _answered(self, most: int | None, pieces: Any) -> Any:
        with self._counted(DECODE), self.work.answer(most) as answer:
            async for piece in pieces:
                answer.take(piece)
                yield piece

    @contextlib.contextmanager
    def _counted(self, work: str) -> Iterator[None]:
        self.running[work] += 1
        try:
            yield
            self.ended[work] += 1
        finally:
            self.running[work] -= 1

    async def set_roles(self, prefill: list[str]) -> dict[str, Any]:
        """Take the role that a table gives: those named prefill; returns `report`."""
        self.role = PREFILL if self.replica_id in prefill else DECODE
        return await self.report()

    async def report(self) -> dict[str, Any]:
        """Return the fields of `pool.Report`."""
        counted = {"running": dict(self.running), "ended": dict(self.ended), "tokens": self.work.report()}
        return {"replica_id": self.replica_id, "role": self.role, **counted}

    async def answer(self, fields: dict[str, Any]) -> tuple[str, str, str]:
        """Complete one request in this replica's role; returns replica_id, role and the answer as it was streamed."""
        from ray.serve.llm.openai_api_models import CompletionRequest

        request = CompletionRequest(**fields)
        alone = self.role == PREFILL  # an engine that prefills answers for itself, as PD's prefill replicas do when asked
        pieces = await (LLMServer.completions(self, request, None) if alone else self.completions(request, None))
        return self.replica_id, self.role, "".join([str(piece) async for piece in pieces])

    async def record_routing_stats(self) -> dict[str, Any]:
        """Return what the routers read: role and running work, beside Ray's own."""
        return {**await super().record_routing_stats(), "role": self.role, "at": time.time(), **self.running}
