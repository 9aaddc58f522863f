"""Arms for claims, and the verdict on one."""

from pdbench.analysis import claims
from pdbench.analysis.claim_evidence import read_evidence
from pdbench.layout import Layout

MIXED = "tiny_itl100_otl11_mixed_"


def writer(tmp_path, write_folder, level_content):
    """Return what writes a folder: {level: (median TPOT in ms, input tokens/s per node of 8)}, a second after the last."""
    second = iter(range(1000))

    def write(name, levels, prefix=MIXED, within="results", manifest=None, **more):
        gpus, files = Layout.parse_published(name)[0].gpus, {}
        for level, (tpot, throughput) in levels.items():
            # Requests of 100 tokens on gpus of the node's 8: 100 x requests / duration = throughput x gpus / 8
            requests = max(20, level)
            content = {
                "requests": requests,
                "duration": 100 * requests * 8 / (throughput * gpus),
                "median_tpot_ms": tpot,
                "date": f"2026-{next(second):04d}",
            }
            files[f"conc{level}.json"] = level_content(level, **content | more)
        folder = write_folder(tmp_path / within, prefix + name, files)
        if manifest:
            manifest.write(folder)
        return folder

    return write


def judged(tmp_path, within="results", **claim):
    """The verdict on one claim about the folders written."""
    asked = claims.Claims(claims=[{"id": "c", "says": "so"} | claim])
    (verdict,) = claims.check(asked, read_evidence([tmp_path / within]))
    return verdict


def flat(*tpots):
    """Levels 4, 8, ... with these TPOTs and throughputs of 1000, 2000, ..."""
    return {4 * (i + 1): (tpot, 1000 * (i + 1)) for i, tpot in enumerate(tpots)}
