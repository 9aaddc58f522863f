"""Hold the facts about one node: plain data, filled by collect.py and judged elsewhere."""

from pydantic import Field

from pdbench.manifest import Strict


class Nic(Strict):
    """A network card as the kernel sees it; `mbit` is None where it does not report it."""

    name: str
    is_up: bool
    mbit: int | None = None
    numa: int | None = None


class RdmaPort(Strict):
    """A port below /sys/class/infiniband: `rate` as the kernel writes it (`100 Gb/sec (4X EDR)`)."""

    name: str
    driver: str | None = None
    is_active: bool
    rate: str | None = None
    numa: int | None = None


class Gpus(Strict):
    """What nvidia-smi lists; `on_bus` NVIDIA cards are plugged in, whatever their driver does."""

    names: list[str] = []
    used: list[int] = Field(default=[], description="MiB of memory in use on each")
    total: list[int] = Field(default=[], description="MiB of memory of each")
    hidden: list[int] = Field(default=[], description="positions in `names` of those that Ray's node does not see")
    holders: list[str] = Field(default=[], description="processes that hold memory, as far as they are visible")
    on_bus: int = 0
    error: str | None = None


class Efa(Strict):
    """Amazon's adapter: `devices` on the bus, the kernel module, the installer's package, and the driver's library."""

    devices: int = 0
    module: str | None = Field(default=None, description="version; empty if it reports none; None if it is not loaded")
    installer: str | None = None


class Gpudirect(Strict):
    """What lets a network card read GPU memory."""

    peermem: bool = False
    open_driver: bool = False
    kernel: str = ""


class Space(Strict):
    """Room below a path, in bytes."""

    path: str
    total: int
    free: int


class Port(Strict):
    """A port that `server` needs at `host`; `error` says in the system's words why it cannot have it, `owner` who listens
    there, `is_ours` if that is Ray Serve of this cluster."""

    number: int
    server: str = "the HTTP server"
    option: str = Field(default="--port", description="what takes another one")
    is_free: bool
    host: str | None = None
    error: str | None = None
    owner: str | None = None
    is_ours: bool = False


class Leftover(Strict):
    """A process whose parent or cluster is gone."""

    pid: int
    name: str
    why: str


class Backend(Strict):
    """Whether a NIXL agent could be made with this backend; `error` in NIXL's or the system's own words."""

    name: str
    loads: bool
    error: str | None = None


class Facts(Strict):
    """One node. What only the full examination looks at is None after a quick one."""

    is_head: bool = False
    hostname: str = ""
    cores: int = 1
    memory: int = Field(default=0, description="bytes")
    environment: dict[str, str] = {}
    versions: dict[str, str | None] = {}
    installed: dict[str, str | None] = Field(default={}, description="of the distributions that were asked for")
    gpus: Gpus = Gpus()
    nics: list[Nic] = []
    rdma: list[RdmaPort] = []
    numa_nodes: int = 1
    efa: Efa = Efa()
    gpudirect: Gpudirect = Gpudirect()
    shm: Space | None = None
    disks: list[Space] = []
    memlock: int | None = Field(default=None, description="bytes; None if there is no limit")
    nofile: int | None = Field(default=None, description="open files; None if there is no limit")
    nofile_hard: int | None = Field(default=None, description="up to where a process may raise it")
    processes: int | None = Field(default=None, description="and threads that may still start; None if there is no limit")
    ports: list[Port] = Field(default=[], description="on the head alone: no other node serves HTTP")
    leftovers: list[Leftover] = []
    slow_link: bool = False
    libraries: dict[str, str | None] | None = Field(default=None, description="None: it loads; else what the loader said")
    backends: list[Backend] | None = None

    @property
    def has_rdma(self) -> bool:
        return bool(self.rdma) or self.efa.devices > 0
