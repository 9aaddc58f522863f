"""A small experiment file, and an arm for one, for the tests of experiments and of their runs."""

import yaml

SMALL = {
    "shows": "that it works", "model": "configs/models/gpt-oss-tiny.yaml", "hardware": "configs/hardware/cpu.yaml",
    "workload": {"isl": 100, "osl": 11}, "levels": {"concurrency": [1, 2]}, "repeats": 2,
    "arms": [{"layout": "2xtp1"}, {"layout": "p1xtp1-d1xtp1", "mode": "pd-pack", "transport": ["cma", "sysv"]}],
}  # fmt: skip
ARMS = ("2xtp1", "pack_p1xtp1-d1xtp1")  # labels of its arms
SLOW = {"name": "slow", "layout": "p1xtp1-d1xtp1", "mode": "pd-spread", "ucx_tls": "tcp", "link_mbit": 50}


def small_experiment(folder, **changes):
    """Path of the file, written to `folder` with these keys changed."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path
