"""Configure how the KV cache travels: vLLM's NixlConnector over UCX or LIBFABRIC."""

from typing import Literal

from pdbench.manifest import Gate, Strict, now
from pdbench.network.ucx import ALIASES, VERBOSE_ENV
from pdbench.network.ucx_log import emulated_in
from pdbench.nodes.stack import Stack


class Transport(Strict):
    """Which NIXL backend moves the KV cache, and which UCX transports it may use (None: UCX decides)."""

    backend: Literal["UCX", "LIBFABRIC"] = "UCX"
    ucx_tls: str | None = None
    verbose: bool = False

    def environment(self) -> dict[str, str]:
        """Return environment variables of every prefill and decode engine."""
        env = {}
        if self.backend == "UCX":
            # UCX prints once per connection which transport it chose; that is the proof, and costs nothing after.
            env["UCX_PROTO_INFO"] = "y"
            if self.ucx_tls:
                env["UCX_TLS"] = self.ucx_tls
        return env | (VERBOSE_ENV if self.verbose else {})

    def kv_transfer_config(self, role: Literal["prefill", "decode"], kv_buffer_device: str, extra: dict, stack: Stack) -> dict:
        """Return vLLM's `kv_transfer_config` for one side; `extra` are further options of the connector."""
        return {
            "kv_connector": "NixlConnector",
            "kv_role": stack.kv_role(role),
            "kv_buffer_device": kv_buffer_device,
            **stack.load_failure_policy(),
            "kv_connector_extra_config": {"backends": [self.backend], **extra},
        }


def transport_gate(seen: list[str], ucx_tls: str | None, wanted: list[str] | None = None) -> Gate:
    """Return gate `transport`: UCX says what carried the KV reads and how, and it is what is expected.

    RDMA by name whose reads UCX emulates in messages, as over EFA without GPUDirect, fails: the card does not read.

    Args:
        seen: what UCX named, as `ucx_log.ways_of` has it: `srd/rdmap85s0:1 (zero-copy)`.
        ucx_tls: UCX_TLS of the engines: what they are to use, or, behind a `^`, what not.
        wanted: the only transports that may have carried them (`cuda_ipc`, `srd`, `tcp`), whatever UCX_TLS allows.
    """
    words = wanted or (ucx_tls or "all").removeprefix("^").split(",")
    forbidden = not wanted and (ucx_tls or "").startswith("^")
    # Beginnings: UCX_TLS takes families, too (rc means rc_mlx5 and rc_verbs).
    named = tuple(name for word in words for name in ALIASES.get(word, (word,)))
    fits = all(name.startswith(named) != forbidden for name in seen)
    emulated = sorted({name.partition("/")[0] for name in emulated_in(seen)})
    expected = f"within UCX_TLS={ucx_tls}" if ucx_tls else "any, but one that UCX names"
    expected = " or ".join(wanted) if wanted else expected
    advice = "set --ucx-tls, and see what devices UCX finds: ucx_info -d"
    if emulated:
        words = f"{', '.join(emulated)} by name, emulated in fact: the card cannot read that memory"
        advice = f"{words}; see GPUDirect in debug/doctor.py, and UCX's version"
        expected += ", reads by the card itself"
    passed = bool(seen) and fits and not emulated
    return Gate(name="transport", passed=passed, seen=", ".join(seen) or "none", expected=expected, time=now(), advice=advice)
