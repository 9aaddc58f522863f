"""Parse the one notation for layouts: `4xtp2` is collocated, `p2xtp2-d1xtp4` is prefill/decode."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["collocated", "pd-pack", "pd-spread", "pd-pool", "bare", "bare-pd", "bare-pd-spread"]
MODES: tuple[Mode, ...] = get_args(Mode)
# One deployment of equal engines; which of them prefill is a table that may change while they serve.
POOL: Mode = "pd-pool"
# Plain `vllm serve` without Ray Serve, and the mode of which it is the control.
CONTROLS = {"bare": "collocated", "bare-pd": "pd-pack", "bare-pd-spread": "pd-spread"}
FORMAT = "write 4xtp2 (4 collocated replicas of TP2) or p2xtp2-d1xtp4 (2 prefill of TP2, 1 decode of TP4)"

_POOL = r"([1-9]\d*)xtp([1-9]\d*)"
_COLLOCATED = re.compile(_POOL, re.ASCII)  # ASCII: otherwise \d takes any script's digits
_PD = re.compile(f"p{_POOL}-d{_POOL}", re.ASCII)
# Behind `1xtp4-`, what this notation does not have (`1xtpep4`) makes it no collocated layout either.
_LIKE_A_POOL = re.compile(r"[pd]?\d+[a-z]*tp[a-z]*\d+", re.ASCII)
# Words of parallelisms that this notation does not know (`dp2`, `2xdp8`, `4xtp2dp2`, `ep8`, `dp=2`, `dep8`, `dpsize2`,
# `dataparallel`): their GPUs would not be counted.
_OTHER = re.compile(
    r"(\d+x?)?(tp\d*)?(dp|pp|[dt]?ep|cp|sp|dcp|pcp)(a|size|x)?(\d+([a-z]{2}\d*)?|on)?|\w*parallel\w*", re.ASCII | re.IGNORECASE
)
# Spellings of the public study's folders; read, never written.
_PUBLISHED_PD = re.compile(f"p?{_POOL}-d?{_POOL}", re.ASCII)
_PUBLISHED_PTP = re.compile(r"([1-9]\d*)ptp([1-9]\d*)-([1-9]\d*)dtp([1-9]\d*)", re.ASCII)


def placed_as(mode: str) -> str:
    """Return the mode with the same engines in the same places under Ray Serve: collocated, pd-pack, pd-spread or pd-pool."""
    return CONTROLS.get(mode, mode)


@dataclass(frozen=True)
class Pool:
    """`num` equal replicas of tensor-parallel size `tp`; prints as `4xtp2`."""

    num: int
    tp: int

    def __post_init__(self) -> None:
        for name, value in (("number of replicas", self.num), ("tensor-parallel size", self.tp)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    def __str__(self) -> str:
        return f"{self.num}xtp{self.tp}"

    @property
    def gpus(self) -> int:
        """Accelerators of the whole pool."""
        return self.num * self.tp


@dataclass(frozen=True)
class Layout:
    """What is deployed: one collocated pool, or a prefill and a decode pool.

    `str()` prints the notation and `Layout.parse` reads it back; where the replicas
    are (pack or spread) is a separate word, see `MODES`.
    """

    decode: Pool
    prefill: Pool | None = None

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Read `4xtp2` or `p2xtp2-d1xtp4`.

        Raises:
            ValueError: the text is anything else; the message says what is allowed.
        """
        if match := _COLLOCATED.fullmatch(text):
            return cls(Pool(*map(int, match.groups())))
        if match := _PD.fullmatch(text):
            return cls._from_pd_groups(match)
        raise ValueError(f"cannot read the layout {text!r}: {FORMAT}")

    @classmethod
    def parse_published(cls, text: str) -> "tuple[Layout, str | None]":
        """Read a published folder's name part: (layout, placement or None if the name does not say).

        Understands `2xtp2-1xtp2`, `1ptp2-3dtp2-packed-ucx`, `spread_srd_1xtp4-1xtp4`,
        `baseline_2xtp4` and the notation of `parse`.

        Raises:
            ValueError: no part, or more than one part, of the name is a layout; or one names another parallelism than TP.
        """
        if other := next(filter(_OTHER.fullmatch, re.split("[-_=.]", text)), None):
            raise ValueError(f"{other!r} in {text!r}: this notation knows tensor parallelism only; {FORMAT}")
        found, placement = [], None
        for token in text.split("_"):
            # The layout may be followed by remarks: "-packed-ucx", "-spread-libfabric".
            words = token.split("-")
            layout = cls._parse_any("-".join(words[:2]))
            if not layout and not any(map(_LIKE_A_POOL.fullmatch, words[1:2])):
                layout = cls._parse_any(words[0])
            if layout:
                found.append(layout)
            for word in words:
                placement = {"pack": "pack", "packed": "pack", "spread": "spread", "pool": "pool"}.get(word, placement)
        if len(found) != 1:
            raise ValueError(f"no single layout in {text!r}: {FORMAT}")
        return found[0], placement

    @classmethod
    def _parse_any(cls, token: str) -> "Layout | None":
        if match := _COLLOCATED.fullmatch(token):
            return cls(Pool(*map(int, match.groups())))
        if match := _PUBLISHED_PD.fullmatch(token) or _PUBLISHED_PTP.fullmatch(token):
            return cls._from_pd_groups(match)
        return None

    @classmethod
    def _from_pd_groups(cls, match: re.Match[str]) -> "Layout":
        p_num, p_tp, d_num, d_tp = map(int, match.groups())
        return cls(prefill=Pool(p_num, p_tp), decode=Pool(d_num, d_tp))

    def __str__(self) -> str:
        return f"p{self.prefill}-d{self.decode}" if self.prefill else str(self.decode)

    @property
    def is_pd(self) -> bool:
        return self.prefill is not None

    @property
    def gpus(self) -> int:
        """Accelerators of the whole layout: the denominator of per-node throughput."""
        return self.decode.gpus + (self.prefill.gpus if self.prefill else 0)

    @property
    def roles(self) -> str:
        """P:D as `launch_gptoss.py --roles` takes it, for example `p2-d1`; empty when collocated."""
        return f"p{self.prefill.num}-d{self.decode.num}" if self.prefill else ""

    @property
    def ratio(self) -> str:
        """P:D as replicas, for example `2:1`; empty when collocated."""
        return f"{self.prefill.num}:{self.decode.num}" if self.prefill else ""
