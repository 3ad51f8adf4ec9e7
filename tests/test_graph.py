import contextlib
import copy

import pytest
import torch

from partnas.graph import WARM_UP, GraphedStep, adam, restore_state, set_learning_rate, state_of


class FakeStream:
    def wait_stream(self, other):
        pass


class FakeGraph:
    replays = 0

    def replay(self):
        type(self).replays += 1


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA streams and graphs that do nothing: what is recorded runs at once, a replay is counted."""
    FakeGraph.replays = 0
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())


def batch(value, size=2):
    return {"image": torch.full((size,), float(value))}


@pytest.mark.usefixtures("fake_cuda")
def test_a_step_is_recorded_after_the_warm_up_and_reads_what_is_given_to_it():
    seen = []

    def step(inputs):
        seen.append(inputs["image"])
        return inputs["image"].sum()

    graphed = GraphedStep(step, "step")
    for call in range(WARM_UP):
        assert graphed(batch(call)) == 2 * call
        assert not graphed.is_recorded
    for call in range(WARM_UP, WARM_UP + 3):
        graphed(batch(call))
        assert graphed.is_recorded
        assert FakeGraph.replays == call - WARM_UP + 1
        assert torch.equal(seen[-1], torch.full((2,), float(call))), "the recorded step's input was not refilled"
    assert len(seen) == WARM_UP + 1
    assert graphed(batch(1, size=3)) == 3, "a batch of another shape runs as it is"
    assert FakeGraph.replays == 3


@pytest.mark.usefixtures("fake_cuda")
def test_a_step_that_cannot_be_recorded_goes_on_and_says_so_once(capsys):
    calls = []

    def step(inputs):
        calls.append(inputs)
        if len(calls) == WARM_UP + 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return inputs["image"].sum()

    graphed = GraphedStep(step, "weight step")
    values = [float(graphed(batch(call))) for call in range(WARM_UP + 3)]
    assert values == [2.0 * call for call in range(WARM_UP + 3)]
    assert not graphed.is_recorded
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "weight step" in said
    assert "not permitted" in said


def test_two_steps_share_memory(fake_cuda):
    first = GraphedStep(torch.sum, "first")
    second = GraphedStep(torch.sum, "second", beside=first)
    assert second._pool is first._pool
    assert second._stream is first._stream


def stepped(optimizer, parameter, steps):
    for step in range(steps):
        parameter.grad = torch.full_like(parameter, step + 1.0)
        optimizer.step()


def test_on_a_cpu_adam_is_plain_adam():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = adam([parameter], torch.device("cpu"), 0.1, betas=(0.5, 0.999))
    plain = torch.optim.Adam([parameter], lr=0.1, betas=(0.5, 0.999))
    assert optimizer.param_groups[0] == plain.param_groups[0]
    assert state_of(optimizer)["param_groups"] == plain.state_dict()["param_groups"]


def test_a_learning_rate_on_the_device_is_changed_in_place():
    parameter = torch.nn.Parameter(torch.ones(3))
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([parameter], lr=rate, fused=True)
    set_learning_rate(optimizer, 0.01)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.01)


@pytest.mark.parametrize("from_tensor", [False, True])
@pytest.mark.parametrize("to_tensor", [False, True])
def test_a_saved_state_fits_rates_of_either_kind(from_tensor, to_tensor):
    def make(parameter, is_tensor):
        return torch.optim.Adam([parameter], lr=torch.tensor(0.1) if is_tensor else 0.1, fused=True)

    whole = torch.nn.Parameter(torch.ones(3))
    optimizer = make(whole, from_tensor)
    set_learning_rate(optimizer, 0.05)
    stepped(optimizer, whole, 3)
    state = copy.deepcopy(state_of(optimizer))
    assert type(state["param_groups"][0]["lr"]) is float

    resumed = torch.nn.Parameter(whole.detach().clone())
    other = make(resumed, to_tensor)
    restore_state(other, state)
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor) == to_tensor
    assert float(other.param_groups[0]["lr"]) == pytest.approx(0.05)
    stepped(optimizer, whole, 2)
    stepped(other, resumed, 2)
    assert torch.allclose(whole, resumed, rtol=1e-6, atol=0)
