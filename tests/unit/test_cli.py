"""What command lines take, in one parser for all commands."""

import argparse
import subprocess
import sys

import pytest

import launch_gptoss
from pdbench.cli import DEFAULT_URL, Parser, add_base_url, base_url, variable
from pdbench.configs import ROOT
from pdbench.doctor import collect
from pdbench.measure import sweep
from pdbench.nodes import stack
from pdbench.serve.options import read_configs


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000//", "http://127.0.0.1:8000"),
        ("https://gpus.example.org", "https://gpus.example.org"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://host:8000/v1", "http://host:8000"),
        ("http://host:8000/v1/", "http://host:8000"),
        ("http://host:8000/v1/completions", "http://host:8000"),
        ("http://host:8000/v1/chat/completions", "http://host:8000"),
        ("http://host:8000/llm", "http://host:8000/llm"),
        ("http://host:8000/llm/a/v1/", "http://host:8000/llm/a"),
        ("http://host:8000/v10", "http://host:8000/v10"),
    ],
)
def test_a_base_url_is_taken_in_every_usual_form(text, taken):
    assert base_url(text) == taken and base_url(taken) == taken


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("127.0.0.1:8000", "'127.0.0.1:8000' is not a base URL: write http://127.0.0.1:8000"),
        ("localhost:8000/v1", "'localhost:8000/v1' is not a base URL: write http://localhost:8000"),
        ("host", "'host' is not a base URL: write http://host"),
        ("//host:8000", "'//host:8000' is not a base URL: write http://host:8000"),
        ("ftp://host:21", "'ftp://host:21' is not a base URL: write http://host:21"),
        ("http:/host:8000", "'http:/host:8000' is not a base URL: write http://host:8000"),
        ("https://host/v1?a=b", "'https://host/v1?a=b' is not a base URL: write https://host"),
        ("http://host:8000/#x", "'http://host:8000/#x' is not a base URL: write http://host:8000"),
        ("", "'' is not a base URL: write http://127.0.0.1:8000"),
        ("http://", "'http://' is not a base URL: write http://127.0.0.1:8000"),
        ("http://a b", "'http://a b' is not a base URL: write http://127.0.0.1:8000"),
        ("http://host:0", "'http://host:0' is not a base URL: write http://127.0.0.1:8000"),
        ("http://host:99999", "is not a URL: Port out of range 0-65535; write http://127.0.0.1:8000"),
        ("http://host:port", "is not a URL: Port could not be cast to integer value as 'port'; write http://127.0.0.1:8000"),
        ("http://[::1", "is not a URL: Invalid IPv6 URL; write http://127.0.0.1:8000"),
    ],
)
def test_another_text_gets_the_form_that_is_meant(text, words):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        base_url(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["http://me:secret@host:8000", "me:secret@host", "http://me:secret@host:99999"])
def test_a_password_in_a_url_is_refused_and_not_repeated(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        base_url(text)
    assert "OPENAI_API_KEY" in str(caught.value) and "secret" not in str(caught.value)


def test_every_command_takes_it_alike():
    parser = Parser()
    add_base_url(parser, "-u")
    assert parser.parse_args([]).base_url == DEFAULT_URL
    assert parser.parse_args(["-u", "http://host:8000/v1"]).base_url == "http://host:8000"
    assert sweep.parse_args(["--smoke", "-u", "http://host:8000/v1"]).base_url == "http://host:8000"


@pytest.mark.parametrize(
    "command",
    [["-m", "pdbench.gates", "--save", "x"], ["-m", "pdbench.measure.sweep", "-s"], ["debug/which_transport.py", "--live"],
     ["benchmarks/stages.py"]],
)  # fmt: skip
def test_every_command_refuses_a_url_without_a_scheme_in_one_line(command):
    words = [sys.executable, *command, "--base-url", "127.0.0.1:1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--base-url: '127.0.0.1:1' is not a base URL: write http://127.0.0.1:1\n" in done.stderr


@pytest.mark.parametrize("name", ["HF_TOKEN", "VLLM_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "key"])
def test_a_variable_that_may_hold_a_key_is_neither_taken_nor_repeated(name):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        variable(f"{name}=sk-nobody-else-knows")
    assert str(caught.value).startswith(f"{name} would be recorded") and "sk-" not in str(caught.value)


@pytest.mark.parametrize("name", ["UCX_TLS", "UCX_IB_PKEY", "RAY_AUTH_TOKEN_PATH", "VLLM_MAX_TOKENS_PER_EXPERT", "MONKEY"])
def test_other_variables_are_taken(name):
    assert variable(f"{name}=x") == (name, "x")


def test_what_a_manifest_records_of_the_environment_holds_no_key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-nobody-else-knows")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    found = stack.machine()["environment"]
    assert (found["VLLM_API_KEY"], found["VLLM_LOGGING_LEVEL"]) == ("(set)", "INFO")
    assert collect.collect(True, [], [], 1.0)["environment"]["VLLM_API_KEY"] == "(set)"


@pytest.mark.parametrize(
    "options", [["--engine-arg", "hf_token=sk-x"], ["--env", "HF_TOKEN=sk-x"], ["--serve-env", "A_KEY=sk-x"]]
)
def test_a_launch_takes_no_key(options):
    words = [sys.executable, "launch_gptoss.py", "--collocated", "--layout", "1xtp1", "--dry-run", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "would be recorded with the results" in done.stderr and "sk-x" not in done.stderr


def test_a_file_with_a_key_is_refused(tmp_path):
    path = tmp_path / "hardware.yaml"
    path.write_text(f"base: {ROOT}/configs/hardware/cpu.yaml\nname: x\nenv: {{HF_TOKEN: sk-x}}\n")
    with pytest.raises(ValueError, match="HF_TOKEN would be recorded with the results") as caught:
        read_configs(launch_gptoss.parse_args(["--collocated", "--layout", "1xtp1", "--hardware", str(path)]))
    assert "sk-x" not in str(caught.value)
