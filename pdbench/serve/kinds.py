"""Give both kinds of deployment one face: a Ray Serve app (serve_app.py) and a control arm's servers (bare_servers.py).

Each is a module without state: what runs is asked of the cluster.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

from pdbench.layout import CONTROLS
from pdbench.manifest import Gate
from pdbench.serve import bare_servers, serve_app


class Kind(Protocol):
    """What differs between the kinds. `plan` is a Plan, that of bare servers a ControlPlan."""

    def start(self, ray: ModuleType, plan: Any, deadline: float) -> Any:
        """Start Serve and the engines, without waiting for these; returns the plan with the nodes that Ray chose.

        Raises:
            LaunchError: there is no place for them by the deadline (`time.monotonic()`), or a program is not installed.
        """

    def wait_until_up(self, ray: ModuleType, plan: Any, deadline: float, report: Callable[[str], None]) -> None:
        """Wait until all runs, the app that describes it as well; `report` gets a line whenever the state changes.

        Raises:
            LaunchError: something failed, or was not up in time.
        """

    async def readiness(self, plan: Any) -> Gate:
        """Return gate `readiness`: every replica has answered a request."""

    def replicas(self) -> list[dict[str, Any]]:
        """Return all replicas on the connected cluster: role, replica_id, node_id, node_ip, pid, and more by kind."""

    def running(self) -> list[dict[str, Any]]:
        """Return those of `replicas` that run; travels by value to the app that describes the deployment."""

    async def ask(self, model: str) -> tuple[dict[str, int], dict[str, list[str]] | None]:
        """Have every engine complete a request; travels by value.

        Returns:
            How many engines there are by deployment or role, and the ids of those that answered: all, or None where this Ray
            cannot address them.

        Raises:
            RuntimeError: one answered with an error.
        """

    def status(self) -> dict[str, Any] | None:
        """Return what `launch_gptoss.py --status` prints; None if nothing of this kind runs."""

    def exists(self) -> bool:
        """Return whether there is something of this kind, if only leftovers of an interrupted launch."""

    def stop(self, deadline: float) -> bool:
        """Stop what there is; False if there was nothing.

        Raises:
            TimeoutError: something is left at the deadline (`time.monotonic()`).
        """


# Servers first: Serve, which both kinds need, ends with the second.
KINDS: tuple[Kind, Kind] = (bare_servers, serve_app)


def kind_of(mode: str) -> Kind:
    """Return the kind of a mode of `layout.MODES`."""
    return bare_servers if mode in CONTROLS else serve_app
