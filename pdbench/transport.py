"""How the KV cache travels: vLLM's NixlConnector over UCX or LIBFABRIC."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
VERBOSE_ENV = {"NIXL_LOG_LEVEL": "DEBUG", "UCX_LOG_LEVEL": "debug", "VLLM_LOGGING_LEVEL": "DEBUG"}
VERBOSE_WARNING = "debug logging distorts results (NIXL's alone costs a large part of the throughput): do not publish these numbers"

# One line of UCX's protocol table: | 0..8184 | zero-copy read | tcp/lo |
_TABLE = re.compile(r"\+-+\+-+\+-+\+|\|")
_ROW = re.compile(r"\|\s*(?P<range>[\w.]+)\s*\|\s*(?P<protocol>[^|]+?)\s*\|\s*(?P<transport>[^|]+?)\s*\|")
_TITLE = re.compile(r"(?P<operation>remote memory (?:read|write)|active message|tagged message)[^|]*\|?")


class Transport(BaseModel):
    """Which NIXL backend moves the KV cache, and which UCX transports it may use (None: UCX decides)."""

    model_config = ConfigDict(extra="forbid")

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

    def kv_transfer_config(self, role: Literal["prefill", "decode"], kv_buffer_device: str, extra: dict) -> dict:
        """vLLM's `kv_transfer_config` for one side; `extra` are further options of the connector."""
        return {
            "kv_connector": "NixlConnector",
            "kv_role": ROLES[role],
            "kv_buffer_device": kv_buffer_device,
            # A lost transfer is an error, never a silent recompute that would pass for PD.
            "kv_load_failure_policy": "fail",
            "kv_connector_extra_config": {"backends": [self.backend], **extra},
        }
