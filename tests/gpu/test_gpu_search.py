"""The supernet and a search's steps on the device: as exact as on a CPU, without host synchronisation, as a graph."""

import contextlib
import io
from functools import partial

import pytest
import torch
from backends import only, served
from gpu_cases import BACKENDS, DEVICE, ON_CPU, only_on_a_gpu

from partnas.architect import Architect, first_order_step, weight_step
from partnas.distributed import World
from partnas.genotype import Genotype
from partnas.graph import GraphedStep, adam, restore_state, set_learning_rate, state_of
from partnas.loss import loss_of
from partnas.nn import PartNet, Supernet
from partnas.presets import space_of

pytestmark = pytest.mark.filterwarnings("ignore:.*deterministic.*")
IS_CUDA = DEVICE.type == "cuda"
SPACE = space_of("search", "mini")
if ON_CPU:
    SPACE = SPACE.replace(channels=4, input_size=32, depth=4, fusion_channels=16)


@pytest.fixture(params=BACKENDS)
def network_backend(request):
    """One backend for all operators that it has, the reference for the others."""
    # Triton's interpreter is too slow for a network.
    if not served(request.param, DEVICE) or (request.param == "triton" and not IS_CUDA):
        pytest.skip(f"{request.param} is not there")
    with only(request.param, DEVICE):
        yield request.param


@pytest.fixture(autouse=True)
def deterministic_convolutions():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def images(batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, SPACE.input_size, SPACE.input_size, generator=generator)


def batch_of(seed):
    generator = torch.Generator().manual_seed(100 + seed)
    return {
        "image": images(seed=seed).contiguous(memory_format=torch.channels_last).to(DEVICE),
        "coordinates": (8 * torch.rand(4, SPACE.parts, 3, generator=generator)).to(DEVICE),
        "visible": torch.ones(4, SPACE.parts).to(DEVICE),
        "has_depth": torch.ones(4).to(DEVICE),
    }


def supernet(device=DEVICE, **options):
    torch.manual_seed(0)
    return Supernet(SPACE, **options).to(device)


def gradients_of(net, x):
    """Coordinates, and the gradient of every parameter for a fixed upstream."""
    output = net(x)
    upstream = torch.linspace(-1, 1, output.numel()).view(output.shape).to(output)
    found = torch.autograd.grad(output, list(net.parameters()), upstream)
    return [output.detach().cpu().double(), *(g.cpu().double() for g in found)]


def off(found, right):
    return [float((f - r).norm() / r.norm().clamp_min(1e-12)) for f, r in zip(found, right, strict=True)]


@pytest.mark.parametrize("recompute", ["none", "light", "cell"])
def test_the_supernet_is_as_exact_as_on_a_cpu(network_backend, recompute):
    exact = gradients_of(supernet("cpu").double(), images().double())
    found = gradients_of(supernet(recompute=recompute), images().to(DEVICE))
    errors = off(found, exact)
    assert errors[0] < 1e-4, "coordinates"
    # Rounding opens or shuts a ReLU, or picks another of two equals in a pool: 1e-3 of a gradient's norm for each.
    assert max(errors) < 5e-2, f"gradient {errors.index(max(errors))} is off by {max(errors):.1e}"
    assert sorted(errors)[len(errors) // 2] < 5e-3


def test_the_supernet_in_bfloat16(network_backend):
    exact = supernet("cpu")(images()).detach()
    net = supernet(activation_dtype=torch.bfloat16)
    found = net(images().to(DEVICE))
    assert off([found.detach().cpu()], [exact])[0] < 5e-2
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_derived_network_is_as_exact_as_on_a_cpu(network_backend):
    torch.manual_seed(0)
    net = PartNet(Genotype.random(SPACE), SPACE)
    exact = gradients_of(net.double(), images().double())
    found = gradients_of(net.float().to(DEVICE), images().to(DEVICE))
    errors = off(found, exact)
    assert errors[0] < 1e-4
    assert max(errors) < 5e-2
    net.eval()
    with torch.no_grad():
        plain, fused = net(images().to(DEVICE)), net.fuse()(images().to(DEVICE))
    assert (plain - fused).abs().max() < 1e-3


class Steps:
    """A search's two steps, as :mod:`partnas.search` takes them."""

    def __init__(self, is_graphed, dtype=None):
        self.network = supernet(activation_dtype=dtype)
        self.weights = list(self.network.weight_parameters())
        self.alphas = list(self.network.architecture_parameters())
        self.weight_optimizer = adam(self.weights, DEVICE, 1e-3, fused=True)
        self.alpha_optimizer = adam(self.alphas, DEVICE, 8e-3, betas=(0.5, 0.999), weight_decay=3e-4)
        world = World(0, 1, DEVICE)
        architect = Architect(self.weights, self.alphas, partial(loss_of, self.network), self.weight_optimizer, world)
        self.weight_step = partial(weight_step, architect)
        self.alpha_step = partial(first_order_step, architect, self.alpha_optimizer)
        if is_graphed and IS_CUDA:
            self.weight_step = GraphedStep(self.weight_step, "weight step")
            self.alpha_step = GraphedStep(self.alpha_step, "alpha step", beside=self.weight_step)

    def run(self, steps):
        """The losses of steps, alphas first from step 2 on, the rate a tenth from step 5 on."""
        losses = []
        for step in steps:
            set_learning_rate(self.weight_optimizer, 1e-3 if step < 5 else 1e-4)
            if step >= 2:
                losses.append(self.alpha_step(batch_of(1000 + step)).detach().clone())
            losses.append(self.weight_step(batch_of(step)).detach().clone())
        return torch.stack(losses).cpu()

    def checkpoint(self):
        file = io.BytesIO()
        states = [state_of(self.weight_optimizer), state_of(self.alpha_optimizer)]
        torch.save({"network": self.network.state_dict(), "optimizers": states}, file)
        return file.getvalue()

    def resume(self, content):
        record = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        self.network.load_state_dict(record["network"])
        for optimizer, state in zip((self.weight_optimizer, self.alpha_optimizer), record["optimizers"], strict=True):
            restore_state(optimizer, state)

    def assert_recorded(self):
        if IS_CUDA:
            assert self.weight_step.is_recorded, self.weight_step.failure
            assert self.alpha_step.is_recorded, self.alpha_step.failure


def assert_same_parameters(left, right):
    for (name, one), other in zip(left.network.named_parameters(), right.network.parameters(), strict=True):
        assert torch.equal(one, other), f"{name} differs by {(one - other).abs().max():.1e}"


@contextlib.contextmanager
def no_synchronisation():
    if IS_CUDA:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if IS_CUDA:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_search_step_never_waits_for_the_device(network_backend, dtype):
    steps = Steps(is_graphed=False, dtype=dtype)
    batches = [batch_of(0), batch_of(1)]
    for _ in range(2):
        steps.alpha_step(batches[0])
        steps.weight_step(batches[1])
    with no_synchronisation():
        steps.alpha_step(batches[0])
        steps.weight_step(batches[1])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_recorded_steps_are_the_steps(network_backend, dtype):
    eager, graphed = Steps(is_graphed=False, dtype=dtype), Steps(is_graphed=True, dtype=dtype)
    count = range(8)
    right, found = eager.run(count), graphed.run(count)
    graphed.assert_recorded()
    assert torch.isfinite(right).all()
    assert len(right.unique()) == len(right), "batches that are not refilled would not be seen"
    assert torch.equal(found, right), f"losses differ by {(found - right).abs().max():.1e}"
    assert_same_parameters(graphed, eager)


def test_a_recorded_search_resumes_to_the_same_bits(network_backend):
    whole = Steps(is_graphed=True)
    whole.run(range(6))
    content = whole.checkpoint()
    right = whole.run(range(6, 12))
    resumed = Steps(is_graphed=True)
    resumed.resume(content)
    assert torch.equal(resumed.run(range(6, 12)), right)
    resumed.assert_recorded()
    assert_same_parameters(resumed, whole)


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_search_job_is_the_same_with_and_without_graphs_and_resumed(network_backend, tmp_path, capfd, order):
    for name in ("pydantic", "yaml", "tqdm", "cv2"):
        pytest.importorskip(name)
    from partnas.config import load_config
    from partnas.run import load_checkpoint
    from partnas.search import search

    def weights_of(name, resume=False, **settings):
        tiny = {
            "network": {"channels": 4, "input_size": 32, "depth": 4, "fusion_channels": 16},
            "data": {"monitor_frames": 4, "cache": False},
            "batch_size": 4, "epochs": 2, "steps_per_epoch": 6, "alpha_epoch": 1, "milestones": [2], "order": order,
            "device": DEVICE.type,
        }  # fmt: skip
        search(load_config("search", "mini", settings={**tiny, **settings}), tmp_path / name, resume, progress=False)
        return load_checkpoint(tmp_path / name)["weights"]

    whole = weights_of("whole")
    plain = weights_of("plain", cuda_graph=False)
    weights_of("resumed", epochs=1)
    resumed = weights_of("resumed", resume=True)
    assert "without a CUDA graph" not in capfd.readouterr().err
    for name, value in whole.items():
        assert torch.equal(value, plain[name]), name
        assert torch.equal(value, resumed[name]), name


@only_on_a_gpu
def test_a_step_that_waits_for_the_device_goes_on_unrecorded(capfd):
    value = torch.zeros((), device=DEVICE)

    def waiting(batch):
        value.add_(float(batch["image"].sum().item()))
        return value.clone()

    def recordable(batch):
        return batch["image"].sum()

    refused, recorded = GraphedStep(waiting, "waiting step"), GraphedStep(recordable, "step")
    ones = {"image": torch.ones(3, device=DEVICE)}
    assert [float(refused(ones)) for _ in range(6)] == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    assert capfd.readouterr().err.count("waiting step runs without a CUDA graph") == 1
    assert [float(recorded({"image": torch.full((3,), float(i), device=DEVICE)})) for i in range(6)] == [
        3.0 * i for i in range(6)
    ]
    assert recorded.is_recorded
