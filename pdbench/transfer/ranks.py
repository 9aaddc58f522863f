"""Start ranks in processes of their own: plain ones on this machine, or Ray actors on the nodes of a cluster."""

import contextlib
import multiprocessing
import time
from typing import Any

from pdbench.transfer.rank import DECODE, PREFILL, Rank, Spec, TransferError

START_TIMEOUT_S = 120.0
# A call: rank name, method of Rank, arguments.
Call = tuple[str, str, tuple]


class LocalRanks:
    """Ranks as plain processes on this machine: needs no Ray."""

    def __init__(self, specs: list[Spec]):
        self.specs = {spec.name: spec for spec in specs}
        self.hosts = dict.fromkeys((PREFILL, DECODE), "127.0.0.1")
        context = multiprocessing.get_context("spawn")  # NIXL and CUDA do not survive a fork
        self.pipes, self.processes = {}, {}
        try:
            for spec in specs:
                self.pipes[spec.name], theirs = context.Pipe()
                self.processes[spec.name] = context.Process(target=_serve, args=(theirs, spec), name=spec.name, daemon=True)
                self.processes[spec.name].start()
                theirs.close()
            self._answers([spec.name for spec in specs], START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def call(self, calls: list[Call]) -> list[Any]:
        """Make calls to different ranks at once; their results, in order.

        Raises:
            TransferError: a rank failed, died, or did not answer in time.
        """
        for name, method, args in calls:
            self.pipes[name].send((method, args))
        return self._answers([name for name, *_ in calls], max(self.specs[name].timeout for name, *_ in calls) + 30)

    def _answers(self, names: list[str], timeout: float) -> list[Any]:
        deadline, found = time.monotonic() + timeout, []
        for name in names:
            try:
                if not self.pipes[name].poll(max(0.0, deadline - time.monotonic())):
                    raise TransferError(f"{name} did not answer within {timeout:.0f} s")
                good, answer = self.pipes[name].recv()
            except (EOFError, ConnectionError):
                self.processes[name].join(5)
                raise TransferError(f"{name} ended with exit code {self.processes[name].exitcode}") from None
            if not good:
                raise TransferError(f"{name}: {answer}")
            found.append(answer)
        return found

    def close(self) -> None:
        """End all processes; those that do not end by themselves are killed."""
        for pipe in self.pipes.values():
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(pipe, spec: Spec) -> None:
    """A rank's process: makes the rank, then answers calls until the pipe closes or says None."""
    try:
        rank = Rank(spec)
    except Exception as error:  # whatever it is, the parent prints it
        pipe.send((False, _one_line(error)))
        return
    pipe.send((True, None))
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while call := pipe.recv():
            method, args = call
            try:
                pipe.send((True, getattr(rank, method)(*args)))
            except Exception as error:
                pipe.send((False, _one_line(error)))
    rank.close()


def _one_line(error: Exception) -> str:
    name, lines = type(error).__name__, str(error).strip().splitlines()
    if not lines:
        return name
    return lines[0] if isinstance(error, TransferError) else f"{name}: {lines[0]}"


class RayRanks:
    """Ranks as Ray actors: prefill on one node and decode on the same or another one."""

    def __init__(self, specs: list[Spec], ray, nodes: dict):
        """Start the actors.

        Args:
            ray: the connected `ray` module.
            nodes: the `cluster.Node` of each role.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from pdbench.nodes.cluster import travel_by_value

        travel_by_value(ray)
        self.ray, self.specs, self.actors = ray, {spec.name: spec for spec in specs}, {}
        self.hosts = {role: node.ip for role, node in nodes.items()}
        try:
            for spec in specs:
                here = NodeAffinitySchedulingStrategy(nodes[spec.role].node_id, soft=False)
                actor = ray.remote(num_cpus=0, num_gpus=int(spec.memory == "cuda"), max_restarts=0)(Rank)
                self.actors[spec.name] = actor.options(scheduling_strategy=here).remote(spec)
            self._answers([actor.__ray_ready__.remote() for actor in self.actors.values()], START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def call(self, calls: list[Call]) -> list[Any]:
        """Make calls to different ranks at once; like `LocalRanks.call`."""
        futures = [getattr(self.actors[name], method).remote(*args) for name, method, args in calls]
        return self._answers(futures, max(self.specs[name].timeout for name, *_ in calls) + 30)

    def _answers(self, futures: list, timeout: float) -> list[Any]:
        try:
            return self.ray.get(futures, timeout=timeout)
        except self.ray.exceptions.GetTimeoutError:
            raise TransferError(f"not all ranks answered within {timeout:.0f} s; is every GPU taken by a deployment?") from None
        except self.ray.exceptions.RayTaskError as error:
            raise TransferError(_one_line(error.cause)) from None
        except self.ray.exceptions.RayError as error:
            raise TransferError(str(error).strip().splitlines()[-1]) from None

    def close(self) -> None:
        """End all actors."""
        with contextlib.suppress(Exception):
            self.ray.get([actor.close.remote() for actor in self.actors.values()], timeout=5)
        for actor in self.actors.values():
            self.ray.kill(actor)
