"""What the audit has of a result folder: its levels in the order measured, and what their files and records say."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from pdbench.analysis.audit_origin import elsewhere
from pdbench.analysis.sharing import is_shared, of_level
from pdbench.layout import Pool
from pdbench.manifest import LevelRecord, Manifest
from pdbench.read.level_file import digest_of
from pdbench.read.results import Arm, Folder, Study
from pdbench.workload import phase_lengths

# Keys that some versions of the bench client write and others do not (`failed`: from vLLM 0.11.1 on).
CLIENT_KEYS = ("endpoint_type", "backend", "failed", "max_output_tokens_per_s", "max_concurrent_requests", "rtfx")
# What the client was asked for, by the kind of finding that a difference is.
ASKED = {"mixed clients": ("backend", "endpoint_type", "tokenizer_id"), "mixed models": ("model_id",),
         "mixed loads": ("burstiness",)}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Source:
    """A result folder as the audit sees it.

    Attributes:
        columns: of its levels in the order measured, by name, shape (n,): those of the tidy table, and stem, seed, launched,
            and, of the file, keys (those of `CLIENT_KEYS` in it), asked (values of `ASKED`, the tokenizer by its name), digest
            (of its summary: copies share it, also where white space or details differ), input_tokens (of all prompts),
            prompt_lengths (tokens of the shortest and of the longest, empty without details), share (`sharing.Share`, None
            without details or several replicas that keep their roles), recorded (the manifest's; the same where it has none,
            None without a record) and elsewhere (what shows that it is of another folder).
    """

    arm: Arm
    manifest: Manifest | None
    columns: dict[str, np.ndarray]

    @cached_property
    def levels(self) -> pd.DataFrame:
        """The columns as a table, where one is needed: to take a column of a thousand tables takes pandas seconds."""
        return pd.DataFrame(self.columns)

    @property
    def name(self) -> str:
        return str(self.arm.folder)

    @property
    def osl(self) -> int:
        """Output tokens of a request."""
        return phase_lengths(self.arm.run.phase, self.arm.run.isl, self.arm.run.osl)[1]

    @property
    def prefill(self) -> Pool:
        """The replicas that compute prompts."""
        return self.arm.layout.prefill or self.arm.layout.decode

    @property
    def workload(self) -> tuple[Any, ...]:
        """What arms that are compared have in common."""
        run = self.arm.run
        return run.model, run.isl, run.osl, run.phase, self.columns["kind"][0]


def sources_of(study: Study, sharing: bool = True) -> list[Source]:
    """Return what result folders hold for the audit, in their order; without `sharing` no level's share."""
    files: dict[str, list[Any]] = defaultdict(list)
    for folder in study.folders.values():
        for name, values in _of_files(folder, sharing).items():
            files[name] += values
    # Rows of both follow the folders, in the table's order.
    columns = columns_of(study.table) | {name: pd.Series(of, dtype=object).to_numpy() for name, of in files.items()}
    by_date = np.argsort(columns["date"], kind="stable")
    of_folder = pd.factorize(columns["folder"][by_date])[0]
    order = by_date[np.argsort(of_folder, kind="stable")]
    ordered = {name: values[order] for name, values in columns.items()}
    ends = np.flatnonzero(np.append(ordered["folder"][1:] != ordered["folder"][:-1], True)) + 1
    slices = {ordered["folder"][end - 1]: slice(begin, end) for begin, end in pairwise([0, *ends])}
    return [
        Source(folder.arm, folder.manifest, {of: values[slices[name]] for of, values in ordered.items()})
        for name, folder in study.folders.items()
    ]


def columns_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return a table's columns, by name."""
    return {str(name): table[name].to_numpy() for name in table.columns}


def _of_files(folder: Folder, sharing: bool) -> dict[str, list[Any]]:
    """What `Source.columns` has beside the tidy table, in the table's order."""
    manifest, layout = folder.manifest, folder.arm.layout
    records = {record.level: record for record in manifest.levels} if manifest else {}
    files: dict[str, list[Any]] = defaultdict(list)
    for level, file in folder.levels.items():  # as the table has them
        content, record = file.summary, records.get(level.stem)
        files["stem"].append(level.stem)
        files["seed"].append(_seed(content, record))
        files["launched"].append(str(record.launched) if record else "")
        files["keys"].append(frozenset(CLIENT_KEYS) & content.keys())
        asked = {key: content.get(key) for keys in ASKED.values() for key in keys}
        files["asked"].append(asked | {"tokenizer_id": model_name(content.get("tokenizer_id"))})
        files["digest"].append(digest := digest_of(content))
        files["input_tokens"].append(content["total_input_tokens"])
        lengths = file.requests.isl if file.requests else ()
        files["prompt_lengths"].append((min(lengths), max(lengths)) if len(lengths) else ())
        requests = file.requests if sharing and is_shared(folder.arm) else None
        files["share"].append(of_level(requests, layout.decode.num, layout.is_pd) if requests else None)
        files["elsewhere"].append(elsewhere(folder, level, content, record))
        files["recorded"].append(_recorded(record, digest, file.row["completed"]))
    return files


def model_name(source: object) -> str | None:
    """Return a model's name by its hub id or folder, also by a snapshot's in the hub's cache; None where there is none."""
    folder, _, snapshot = str(source or "").rstrip("/").partition("/snapshots/")
    return (folder.rsplit("--", 1)[-1] if snapshot else folder).rsplit("/", 1)[-1] or None


def _recorded(record: LevelRecord | None, digest: str, completed: int) -> str | None:
    if not record:
        return None
    return record.digest or digest if record.num_prompts == completed else "other requests"


def _seed(content: dict[str, Any], record: LevelRecord | None) -> str:
    """The seed of a level's prompts; empty where nobody knows it: the client does not write its `--seed`."""
    return str(content.get("seed", record.seed if record else ""))
