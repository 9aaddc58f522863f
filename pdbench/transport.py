"""How the KV cache travels: vLLM's NixlConnector over UCX or LIBFABRIC."""

from typing import Literal

from pdbench.manifest import Strict
from pdbench.stack import Stack
from pdbench.ucx_log import VERBOSE_ENV


class Transport(Strict):
    """Which NIXL backend moves the KV cache, and which UCX transports it may use (None: UCX decides)."""

    backend: Literal["UCX", "LIBFABRIC"] = "UCX"
    ucx_tls: str | None = None
    verbose: bool = False

    def environment(self) -> dict[str, str]:
        """Environment variables of every prefill and decode engine."""
        env = {}
        if self.backend == "UCX":
            # UCX tells once per connection which transport it chose; that is the proof, and costs nothing after.
            env["UCX_PROTO_INFO"] = "y"
            if self.ucx_tls:
                env["UCX_TLS"] = self.ucx_tls
        return env | (VERBOSE_ENV if self.verbose else {})

    def kv_transfer_config(self, role: Literal["prefill", "decode"], kv_buffer_device: str, extra: dict, stack: Stack) -> dict:
        """vLLM's `kv_transfer_config` for one side; `extra` are further options of the connector."""
        return {
            "kv_connector": "NixlConnector",
            "kv_role": stack.kv_role(role),
            "kv_buffer_device": kv_buffer_device,
            **stack.load_failure_policy(),
            "kv_connector_extra_config": {"backends": [self.backend], **extra},
        }
