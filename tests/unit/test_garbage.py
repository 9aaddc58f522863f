"""What large imports make is not looked at for garbage."""

import gc
import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pdbench import garbage
from pdbench.configs import ROOT
from pdbench.serve import serve_app


@pytest.fixture(autouse=True)
def unfrozen():
    """What these tests freeze would stay so for those that come after them in this process."""
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_was_made_is_left_out_for_good():
    gc.unfreeze()
    with garbage.collector_off():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() > len(made)


def test_a_collector_that_was_off_stays_off_and_an_import_that_fails_leaves_it_on():
    with pytest.raises(ImportError), garbage.collector_off():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with garbage.collector_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_launch_imports_vllm_so(monkeypatch):
    seen = {}
    monkeypatch.setattr(importlib, "import_module", lambda name: seen.update({name: gc.isenabled()}))
    for name in ("start_serve", "deploy", "build_app"):
        monkeypatch.setattr(serve_app, name, lambda *_: None)
    serve_app.start(None, SimpleNamespace(), 0.0)
    assert seen == {"ray.serve.llm": False} and gc.isenabled()


def test_the_bench_client_imports_vllm_so(tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text("import gc\nraise SystemExit(f'collector on: {gc.isenabled()}')\n")
    client = [sys.executable, "-m", "pdbench.measure.bench_client", str(tmp_path / "log")]
    subprocess.run(client, cwd=ROOT, env={"PYTHONPATH": str(tmp_path)}, stdin=subprocess.DEVNULL, timeout=60)
    assert "collector on: False" in (tmp_path / "log").read_text()
