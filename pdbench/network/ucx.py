"""UCX's names of its transports, and the log levels of UCX, NIXL and vLLM that distort what is measured. Plain data.

Names: `ucx_info -d`; words of UCX_TLS that mean several of them: UCX's ucp_context.c, ucp_tl_aliases.
"""

from collections.abc import Mapping

MAPPED = ("posix", "sysv", "xpmem")
SHARED = (*MAPPED, "cma", "knem")
DEVICE = ("cuda_ipc", "cuda_copy", "gdr_copy")
NETWORK = ("rc", "ud", "dc", "srd", "gga")  # RDMA
# Beginnings of the names that a word of UCX_TLS allows; any other word is a beginning itself.
ALIASES = {
    "all": ("",), "mm": MAPPED, "sm": SHARED, "shm": SHARED, "cuda": ("cuda", "gdr_copy"), "ib": ("rc", "ud", "dc"),
    "rc_v": ("rc_verbs",), "rc_x": ("rc_mlx5",), "ud_v": ("ud_verbs",), "ud_x": ("ud_mlx5",), "dc_x": ("dc_mlx5",),
}  # fmt: skip
# Families of words, as UCX_TLS has them: what leaves the machine over RDMA, and what is fast within it.
REMOTE_WORDS = {*NETWORK, "ib"}
LOCAL_WORDS = {*SHARED, "sm", "shm", "mm", "cuda", "rocm", "ze"}

# What `launch_gptoss.py --verbose` sets.
VERBOSE_ENV = {"NIXL_LOG_LEVEL": "DEBUG", "UCX_LOG_LEVEL": "debug", "VLLM_LOGGING_LEVEL": "DEBUG"}
VERBOSE_WARNING = "debug logging distorts results, NIXL's alone costs much throughput: do not publish these numbers"
LOUD_LEVELS = {
    "NIXL_LOG_LEVEL": ("debug", "trace"),
    "UCX_LOG_LEVEL": ("debug", "trace", "req", "data", "async", "func", "poll"),
    "VLLM_LOGGING_LEVEL": ("debug",),
}


def loud(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that turn on logging which distorts what is measured."""
    return {name: environment[name] for name, levels in LOUD_LEVELS.items() if environment.get(name, "").lower() in levels}
