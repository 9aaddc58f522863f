"""The KV transfer: what engines are given, and what UCX says about it."""

import pytest
from packaging.version import Version
from pydantic import ValidationError

from pdbench.network.transport import Transport
from pdbench.network.ucx import VERBOSE_ENV
from pdbench.nodes.stack import Stack


def test_each_side_of_the_transfer_has_its_role():
    ucx, stack = Transport(), Stack(Version("2.60.0"), Version("0.29.0"))
    assert ucx.kv_transfer_config("prefill", "cuda", {}, stack) == {
        "kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_buffer_device": "cuda",
        "kv_load_failure_policy": "fail", "kv_connector_extra_config": {"backends": ["UCX"]},
    }  # fmt: skip
    assert ucx.kv_transfer_config("decode", "cuda", {}, stack)["kv_role"] == "kv_consumer"


def test_the_original_study_knew_one_role_and_no_policy():
    config = Transport().kv_transfer_config("decode", "cuda", {}, Stack(Version("2.51.0"), Version("0.11.0")))
    assert config["kv_role"] == "kv_both" and "kv_load_failure_policy" not in config


def test_the_backend_and_further_options_reach_the_connector():
    config = Transport(backend="LIBFABRIC").kv_transfer_config(
        "decode", "cpu", {"num_threads": 0}, Stack(Version("2.60"), Version("0.29"))
    )
    assert config["kv_connector_extra_config"] == {"backends": ["LIBFABRIC"], "num_threads": 0}
    assert config["kv_buffer_device"] == "cpu"


@pytest.mark.parametrize(
    ("transport", "environment"),
    [
        (Transport(), {"UCX_PROTO_INFO": "y"}),
        (Transport(ucx_tls="tcp"), {"UCX_PROTO_INFO": "y", "UCX_TLS": "tcp"}),
        (Transport(verbose=True), {"UCX_PROTO_INFO": "y", **VERBOSE_ENV}),
        (Transport(backend="LIBFABRIC"), {}),
        (Transport(backend="LIBFABRIC", verbose=True), VERBOSE_ENV),
    ],
)
def test_engines_get_what_the_options_ask_for(transport, environment):
    assert transport.environment() == environment


def test_verbose_speaks_for_nixl_ucx_and_vllm():
    assert {name.split("_")[0] for name in VERBOSE_ENV} == {"NIXL", "UCX", "VLLM"}
    assert {value.upper() for value in VERBOSE_ENV.values()} == {"DEBUG"}


@pytest.mark.parametrize("wrong", [{"backend": "TCP"}, {"tls": "tcp"}, {"verbose": "loud"}])
def test_an_unknown_transport_is_refused(wrong):
    with pytest.raises(ValidationError):
        Transport(**wrong)
