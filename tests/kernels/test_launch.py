import json

import pytest
import torch
import triton
import triton.language as tl

from partnas.kernels import launch as launching
from partnas.kernels.launch import Config, entry_for, launch

TABLE = {75: Config({"BLOCK": 16}, 2, 1), 80: Config({"BLOCK": 32}, 4, 2)}


@triton.jit
def _double(x, out, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, i < size, 0.0), i < size)


def doubled(x):
    out = torch.empty_like(x)
    launch(_double, lambda blocks: (triton.cdiv(x.numel(), blocks["BLOCK"]),), TABLE, x, out, x.numel())
    return out


def test_a_device_takes_the_entry_of_the_greatest_capability_that_it_has():
    assert [entry_for(TABLE, c).num_warps for c in (60, 75, 79, 80, 86, 120)] == [2, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("size", [0, 1, 31, 70])
def test_launch(device, size):
    x = torch.randn(size, device=device)
    assert torch.equal(doubled(x), 2 * x)


@pytest.fixture
def measuring(monkeypatch, tmp_path):
    """``measuring(times)``: a launch's choice with these times by block size, and how many were measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(launching, "_measured", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    # The interpreter's kernels have no key of their own.
    monkeypatch.setattr(_double, "cache_key", "1", raising=False)

    def choose(times, problem=7):
        seen = []

        def time(kernel, grid, config, args, constexprs):
            seen.append(config)
            return times(config)

        monkeypatch.setattr(launching, "_time", time)
        args = (torch.zeros(problem), torch.zeros(problem), problem)
        found = launching._fastest(_double, None, TABLE, TABLE[80], args, {}, torch.device("cuda", 0))
        return found, len(seen)

    return choose


def test_the_fastest_is_kept(measuring, tmp_path, monkeypatch):
    def prefers_64(config):
        return abs(config.blocks["BLOCK"] - 64)

    found, count = measuring(prefers_64)
    assert found.blocks == {"BLOCK": 64}
    assert count == len(list(launching._candidates(TABLE))) > 8
    assert measuring(prefers_64) == (found, 0)
    assert measuring(prefers_64, problem=8)[1] == count

    # Another process reads what this one has written.
    monkeypatch.setattr(launching, "_measured", {})
    assert measuring(prefers_64) == (found, 0)
    (file,) = (tmp_path / "partnas").iterdir()
    assert file.name.startswith("NVIDIA-H100-80GB-HBM3._double.")
    assert len(json.loads(file.read_text())) == 2


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"a": 1}', '{"a": [{"BLOCK": "x"}, 1, 1]}', "\udcff"])
def test_a_broken_cache_is_measured_anew(measuring, tmp_path, monkeypatch, content):
    found, count = measuring(lambda config: config.blocks["BLOCK"])
    (file,) = (tmp_path / "partnas").iterdir()
    file.write_bytes(content.encode(errors="surrogateescape"))
    monkeypatch.setattr(launching, "_measured", {})
    assert measuring(lambda config: config.blocks["BLOCK"]) == (found, count)
    assert json.loads(file.read_text())


def test_a_folder_that_cannot_be_written_costs_nothing_else(measuring, tmp_path):
    (tmp_path / "partnas").write_text("a file in the way")
    found, count = measuring(lambda config: config.blocks["BLOCK"])
    assert found.blocks == {"BLOCK": 8}
    assert measuring(lambda config: config.blocks["BLOCK"]) == (found, 0)
    assert count


def test_nothing_is_measured_while_a_graph_is_recorded(measuring, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert measuring(lambda config: config.blocks["BLOCK"]) == (TABLE[80], 0)


def test_variations_are_powers_of_two_and_differ():
    candidates = list(launching._candidates(TABLE))
    assert all(candidates.count(config) == 1 for config in candidates)
    assert {config.blocks["BLOCK"] for config in candidates} == {8, 16, 32, 64}
    assert {config.num_warps for config in candidates} == {1, 2, 4, 8}
    assert all(config.num_stages >= 1 for config in candidates)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_measuring_on_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PARTNAS_AUTOTUNE", "1")
    x = torch.randn(1000, device="cuda")
    assert torch.equal(doubled(x), 2 * x)
    assert torch.equal(doubled(x), 2 * x)
    assert len(list((tmp_path / "partnas").iterdir())) == 1


def test_an_entry_that_must_stay_as_it_is_has_no_neighbours():
    fixed = Config({"BLOCK": 16}, 2, 1, varies=False)
    assert list(launching._candidates({75: fixed})) == [fixed]
