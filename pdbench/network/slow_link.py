"""Make loopback a slow network: what UCX sends over TCP there keeps to a rate, by Linux traffic control.

    python -m pdbench.slow_link start --mbit 10
    python -m pdbench.slow_link stop

Only the KV transfer is slowed, which is recognised by its ports: engines are launched with
`--env UCX_TCP_PORT_RANGE=31744-32767`. Needs root and `tc` (iproute2) with HTB and u32: tc-htb(8), tc-u32(8).
"""

import shutil
import subprocess
import sys

from pdbench.cli import Parser, positive

DEVICE = "lo"
HANDLE = "5d:"  # distinguishes our queue from others
# A range that one mask covers, below the ports that Linux gives to outgoing connections.
FIRST_PORT, PORT_MASK = 31744, 0xFC00
UCX_ENV = {"UCX_TCP_PORT_RANGE": f"{FIRST_PORT}-{FIRST_PORT + 0xFFFF - PORT_MASK}"}
# Packets on loopback have up to 64 KiB, which must pass at once.
BURST = "128kb"


class LinkError(RuntimeError):
    """The link cannot be slowed down or is slow already; one line."""


def start(mbit: int) -> None:
    """Slow the KV transfer on loopback down to `mbit` Mbit/s, in both directions together.

    Raises:
        LinkError: the machine does not allow it, or somebody else shapes loopback; nothing is changed then.
    """
    if reason := why_not():
        raise LinkError(reason)
    _tc("qdisc", "add", "dev", DEVICE, "root", "handle", HANDLE, "htb")
    try:
        limit = ["htb", "rate", f"{mbit}mbit", "burst", BURST]
        _tc("class", "add", "dev", DEVICE, "parent", HANDLE, "classid", f"{HANDLE}1", *limit)
        for side in ("sport", "dport"):
            match = ["match", "ip", "protocol", "6", "0xff", "match", "ip", side, str(FIRST_PORT), f"{PORT_MASK:#x}"]
            _tc("filter", "add", "dev", DEVICE, "parent", HANDLE, "protocol", "ip", "u32", *match, "flowid", f"{HANDLE}1")
    except BaseException:
        stop()
        raise


def stop() -> bool:
    """Take the limit away; False if there was none of ours."""
    if not is_slow():
        return False
    _tc("qdisc", "del", "dev", DEVICE, "root")
    return True


def is_slow() -> bool:
    return shutil.which("tc") is not None and f"qdisc htb {HANDLE} root" in _tc("qdisc", "show", "dev", DEVICE)


def why_not() -> str | None:
    """Say why loopback cannot be slowed down here; None if it can. Changes nothing."""
    if not shutil.which("tc"):
        return "a slow link needs tc: install iproute2"
    shown = _tc("qdisc", "show", "dev", DEVICE)
    if "noqueue" not in shown:
        return f"{DEVICE} has a queue already: {shown.strip()}; if it is a slow link of ours, end it with: stop"
    # In a network of its own, so that nothing here changes.
    alone = ["unshare", "-n", "tc", "qdisc", "add", "dev", DEVICE, "root", "htb"]
    tried = subprocess.run(alone, capture_output=True, text=True)
    return f"a slow link needs root and tc with HTB: {tried.stderr.strip()}" if tried.returncode else None


def _tc(*words: str) -> str:
    done = subprocess.run(["tc", *words], capture_output=True, text=True)
    if done.returncode:
        raise LinkError(f"tc {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    parser = Parser(prog="python -m pdbench.slow_link", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("start").add_argument("--mbit", type=positive, required=True, help="Mbit/s")
    actions.add_parser("stop")
    args = parser.parse_args()
    try:
        if args.action == "start":
            start(args.mbit)
            print(f"slow link: UCX over TCP on {DEVICE}, {args.mbit} Mbit/s")
        else:
            print("slow link: ended" if stop() else "slow link: there was none")
    except LinkError as error:
        print(f"slow_link: error: {error}", file=sys.stderr)
        return 2
    return 0
