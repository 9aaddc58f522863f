"""Run one rank of prefill or decode: a NIXL agent with a KV cache, in a process of its own, as an engine's rank is."""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

# Names, not modules: over Ray they travel to nodes without this repository by value.
from pdbench.transfer.cache import Cache, Piece, Request
from pdbench.transfer.limits import Scratch, listen, receive_seconds, send
from pdbench.transfer.pattern import differing, fill

PREFILL, DECODE = "prefill", "decode"
SMALL_READS = 50


@dataclass(frozen=True)
class Spec:
    """What a rank needs to know to start.

    Attributes:
        tp: ranks on its side.
        device: number of its GPU among those that its process sees.
        num_threads: NIXL's worker threads besides its progress thread; vLLM's connector has 4.
        env: environment variables, set before NIXL is loaded.
        timeout: seconds after which a transfer is an error.
    """

    role: str
    rank: int
    tp: int
    cache: Cache
    memory: str = "cpu"
    device: int = 0
    backend: str = "UCX"
    num_threads: int = 0
    env: dict[str, str] = field(default_factory=dict)
    timeout: float = 120.0

    @property
    def name(self) -> str:
        return f"{self.role}{self.rank}"

    @property
    def heads(self) -> range:
        """KV heads that this rank holds."""
        share = self.cache.heads // self.tp
        return range(self.rank * share, (self.rank + 1) * share)


class TransferError(RuntimeError):
    """A transfer, or what it needs, failed; one line."""


class Rank:
    """Registers a cache with NIXL and reads from other ranks' caches: the calls of vLLM's NixlConnector, in its order."""

    def __init__(self, spec: Spec):
        self.spec = spec
        # UCX prints which transport it chose to standard output; this process has one to itself.
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ |= spec.env
        torch.set_num_threads(1)
        self.device = torch.device("cuda", spec.device) if spec.memory == "cuda" else torch.device("cpu")
        shape = (spec.cache.blocks, len(spec.heads), spec.cache.head_bytes // 8)
        self.tensors = [torch.zeros(shape, dtype=torch.int64, device=self.device) for _ in range(spec.cache.layers)]
        self.memory = "VRAM" if spec.memory == "cuda" else "DRAM"
        self.agent = self._start_agent()
        regions = [(t.data_ptr(), t.numel() * 8, spec.device, "") for t in self.tensors]
        self.registered = self.agent.get_reg_descs(regions, self.memory)
        try:
            self.agent.register_memory(self.registered, backends=[spec.backend])
        except Exception as error:
            hint = "; CUDA memory needs cuda_copy in UCX_TLS" if spec.memory == "cuda" else ""
            raise TransferError(f"{spec.backend} cannot register {spec.memory} memory: {error}{hint}") from None
        self.sources: list[tuple[str, object, object]] = []
        self.scratch: Scratch | None = None

    def _start_agent(self):
        """NIXL's agent with the one backend, as vLLM's connector configures it.

        Without PyTorch: cloudpickle takes `.backends` beside `torch` for the module torch.backends, which it cannot pickle.
        """
        from nixl._api import nixl_agent, nixl_agent_config

        name, threads = self.spec.backend, self.spec.num_threads
        options = {"num_threads": threads} if name == "UCX" else {"backends": [name]}
        try:
            agent = nixl_agent(f"{self.spec.name}-{os.getpid()}", nixl_agent_config(capture_telemetry=True, **options))
        except Exception as error:  # of several kinds, one for each of NIXL's codes
            raise TransferError(f"NIXL cannot start {name} here: {error}; its log: {self._last_words()}") from None
        if name not in agent.backends:
            raise TransferError(f"NIXL has no backend {name} here; it has {', '.join(agent.get_plugin_list())}")
        return agent

    def describe(self) -> dict:
        """Return what the other side needs: NIXL's metadata, and where each layer's region begins."""
        bases = [tensor.data_ptr() for tensor in self.tensors]
        return {"metadata": self.agent.get_agent_metadata(), "bases": bases, "device": self.spec.device}

    def connect(self, prefill: list[dict], prefill_tp: int, pieces: list[Piece]) -> float:
        """Load, for decode, the prefill ranks' metadata and prepare a descriptor for each block and layer of each piece.

        Returns:
            Seconds that it took: what vLLM's handshake costs.
        """
        begun = time.perf_counter()
        self.source_device = torch.device(self.device.type, prefill[pieces[0].source]["device"])
        remote_block = self.spec.cache.block_bytes(prefill_tp)
        local_block = self.spec.cache.block_bytes(self.spec.tp)
        for piece in pieces:
            name = self.agent.add_remote_agent(prefill[piece.source]["metadata"])
            local = self._descriptors(self.describe(), local_block, piece.local_offset, piece.length)
            remote = self._descriptors(prefill[piece.source], remote_block, piece.remote_offset, piece.length)
            local = self.agent.prep_xfer_dlist("NIXL_INIT_AGENT", self.agent.get_xfer_descs(local, self.memory))
            remote = self.agent.prep_xfer_dlist(name, self.agent.get_xfer_descs(remote, self.memory))
            self.sources.append((name, local, remote))
        return time.perf_counter() - begun

    def _descriptors(self, side: dict, stride: int, offset: int, length: int) -> np.ndarray:
        """(address, length, device) of every block of a side, layer after layer: uint64 of [layers * blocks, 3]."""
        numbers = np.arange(self.spec.cache.blocks, dtype=np.uint64)
        found = np.empty((len(side["bases"]) * len(numbers), 3), dtype=np.uint64)
        found[:, 0] = np.concatenate([np.uint64(base + offset) + numbers * np.uint64(stride) for base in side["bases"]])
        found[:, 1:] = length, side["device"]
        return found

    def fill(self, generation: int, requests: list[Request] | None = None) -> None:
        """Write a generation of the pattern into the whole cache, or into what `requests` will overwrite."""
        blocks = self._blocks(requests, 1) if requests else None
        fill(self.spec.cache, self.tensors, self.spec.heads, generation, blocks)
        self._synchronize()

    def read(self, requests: list[Request], start_at: float, name: str) -> dict:
        """Read the blocks of all requests at once, and wait until they are here.

        Args:
            start_at: Unix time at which all decode ranks begin.
            name: of the transfer; the notification that the prefill side gets says it.

        Returns:
            seconds from the first call to the last block; post_seconds of them in posting; descriptors as asked for;
            telemetry: NIXL's own count of each request's bytes, descriptors (after merging) and microseconds.
        """
        ids = [self._ids(request) for request in requests]
        while time.time() < start_at:
            pass
        begun = time.perf_counter()
        handles = []
        for remote_ids, local_ids in ids:
            for _, local, remote in self.sources:
                handle = self.agent.make_prepped_xfer("READ", local, local_ids, remote, remote_ids, notif_msg=name.encode())
                handles.append((handle, self.agent.transfer(handle)))
        posted = time.perf_counter()
        self._wait(handles, begun)
        done = time.perf_counter()
        telemetry = [self.agent.get_xfer_telemetry(handle) for handle, _ in handles]
        for handle, _ in handles:
            self.agent.release_xfer_handle(handle)
        return {
            "seconds": done - begun, "post_seconds": posted - begun,
            "descriptors": sum(len(local_ids) for _, local_ids in ids) * len(self.sources),
            "telemetry": [{"bytes": t.totalBytes, "descriptors": t.descCount, "post_us": t.postDuration, "us": t.xferDuration}
                          for t in telemetry],
        }  # fmt: skip

    def _wait(self, handles: list, begun: float) -> None:
        pending = handles
        while pending:
            pending = [(h, s) for h, s in ((h, self.agent.check_xfer_state(h)) if s == "PROC" else (h, s) for h, s in pending)
                       if s != "DONE"]  # fmt: skip
            if any(state == "ERR" for _, state in pending):
                raise TransferError("NIXL reports that a transfer failed: see the log with --verbose")
            if time.perf_counter() - begun > self.spec.timeout:
                raise TransferError(f"a transfer was not done after {self.spec.timeout:.0f} s")

    def small_read(self) -> float:
        """Measure the median seconds of reading one block of one layer, the least that there is."""
        _, local, remote = self.sources[0]
        one, seconds = np.zeros(1, dtype=np.int32), []
        for _ in range(SMALL_READS):
            begun = time.perf_counter()
            handle = self.agent.make_prepped_xfer("READ", local, one, remote, one, notif_msg=b"small")
            self._wait([(handle, self.agent.transfer(handle))], begun)
            seconds.append(time.perf_counter() - begun)
            self.agent.release_xfer_handle(handle)
        return statistics.median(seconds)

    def notified(self, name: str, expected: int) -> int:
        """Wait, for prefill, until `expected` readers have the blocks of transfer `name`; returns how many said so."""
        wanted, count, deadline = name.encode(), 0, time.monotonic() + 5
        while count < expected and time.monotonic() < deadline:
            count += sum(message == wanted for some in self.agent.get_new_notifs().values() for message in some)
        return count

    def wrong_bytes(self, requests: list[Request], generation: int) -> int:
        """Return, for decode, how many bytes of what was read are not what the prefill side holds in those blocks."""
        here, there = self._blocks(requests, 1), self._blocks(requests, 0)
        return differing(self.spec.cache, self.tensors, self.spec.heads, generation, here, there)

    def touched_bytes(self, generation: int) -> int:
        """Return how many bytes of the whole cache are not of `generation`, though no transfer had to change them."""
        return differing(self.spec.cache, self.tensors, self.spec.heads, generation)

    def _blocks(self, requests: list[Request], side: int) -> list[list[int]]:
        """Blocks of every layer that `requests` move; side 0 is remote, 1 local."""
        cache = self.spec.cache
        return [[block for r in requests for block in r.of_layer(cache, layer)[side]] for layer in range(cache.layers)]

    def _ids(self, request: Request):
        """Numbers of the descriptors (remote, local) of a request, layer after layer."""
        cache = self.spec.cache
        both = [request.of_layer(cache, layer) for layer in range(cache.layers)]
        sides = ([layer * cache.blocks + block for layer, pair in enumerate(both) for block in pair[i]] for i in (0, 1))
        return [np.array(side, dtype=np.int32) for side in sides]

    def copy_seconds(self, size: int) -> float:
        """Measure the seconds to copy `size` bytes from prefill's memory to its own kind: the limit within a machine."""
        self.scratch = self.scratch or Scratch(self.source_device, self.device)
        return self.scratch.copy_seconds(size)

    def listen(self, host: str) -> int:
        """Open a port on `host` for `stream`; returns it."""
        self.listener = listen(host)
        return self.listener.getsockname()[1]

    def stream(self, size: int) -> None:
        """Send `size` bytes over a plain TCP socket to the peer that connects."""
        send(self.listener, size)

    def receive_seconds(self, host: str, port: int, size: int) -> float:
        """Measure the seconds to receive `size` bytes over a plain TCP socket: the limit of TCP between these ranks."""
        return receive_seconds(host, port, size)

    def _synchronize(self) -> None:
        if self.spec.memory == "cuda":
            torch.cuda.synchronize(self.device)

    def log(self) -> list[str]:
        """Return all that this process has printed so far, UCX's tables among it."""
        return Path("/proc/self/fd/1").read_text(errors="replace").splitlines()

    def _last_words(self) -> str:
        return " / ".join(line.strip() for line in self.log()[-3:]) or "empty"

    def close(self) -> None:
        """Release everything, in NIXL's order."""
        for _, local, remote in self.sources:
            self.agent.release_dlist_handle(local)
            self.agent.release_dlist_handle(remote)
        for name in {name for name, *_ in self.sources}:
            self.agent.remove_remote_agent(name)
        self.agent.deregister_memory(self.registered)
