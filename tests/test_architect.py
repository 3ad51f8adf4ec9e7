import pytest
import torch

from partnas.architect import Architect, adam_step, frozen
from partnas.distributed import World

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


class Problem:
    """A small smooth bilevel problem: weights w, architecture a, loss(batch) couples them."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.w = torch.nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
        self.a = torch.nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        self.mix = torch.randn(4, 6, generator=generator, dtype=torch.float64)
        self.train = torch.randn(6, generator=generator, dtype=torch.float64)
        self.validation = torch.randn(6, generator=generator, dtype=torch.float64)
        self.optimizer = torch.optim.Adam([self.w], lr=0.05)

    def loss(self, batch, w=None):
        w = self.w if w is None else w
        gates = torch.softmax(self.a, 0) @ self.mix
        return ((torch.tanh(w * gates) - batch) ** 2).sum() + 0.1 * (w**4).sum()

    def warm_up(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            with frozen([self.a]):
                self.loss(self.train).backward()
            self.optimizer.step()

    def architect(self):
        return Architect([self.w], [self.a], self.loss, self.optimizer, WORLD)


def differentiable_adam(problem, gradient):
    state = problem.optimizer.state[problem.w]
    group = problem.optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    time = float(state["step"]) + 1
    mean = (beta1 * state["exp_avg"] + (1 - beta1) * gradient) / (1 - beta1**time)
    square = (beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient**2) / (1 - beta2**time)
    return group["lr"] * mean / (square.sqrt() + group["eps"])


def test_adam_step_is_the_step_that_adam_takes():
    problem = Problem()
    problem.warm_up(3)
    before = problem.w.detach().clone()
    problem.optimizer.zero_grad()
    problem.loss(problem.train).backward()
    step, _ = adam_step(problem.optimizer, problem.w, problem.w.grad)
    problem.optimizer.step()
    torch.testing.assert_close(before - step, problem.w.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("warm_up", [1, 7])
def test_adam_step_slope_is_its_derivative(warm_up):
    problem = Problem()
    problem.warm_up(warm_up)
    gradient = torch.randn(6, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(differentiable_adam(problem, gradient).sum(), gradient)[0]
    _, slope = adam_step(problem.optimizer, problem.w, gradient.detach())
    torch.testing.assert_close(slope, expected)


def test_second_order_agrees_with_differentiating_through_the_step():
    problem = Problem()
    problem.warm_up(4)
    inner = torch.autograd.grad(problem.loss(problem.train), problem.w, create_graph=True)[0]
    lookahead = problem.w - differentiable_adam(problem, inner)
    expected_loss = problem.loss(problem.validation, lookahead)
    expected = torch.autograd.grad(expected_loss, problem.a)[0]

    before = problem.w.detach().clone()
    loss = problem.architect().second_order(problem.train, problem.validation)
    torch.testing.assert_close(loss, expected_loss.detach())
    torch.testing.assert_close(problem.a.grad, expected, rtol=2e-3, atol=1e-6)
    assert torch.equal(problem.w.detach(), before)


def test_second_order_differs_from_first_order():
    problem = Problem()
    problem.warm_up(4)
    problem.architect().second_order(problem.train, problem.validation)
    second = problem.a.grad
    problem.architect().first_order(problem.validation)
    assert (second - problem.a.grad).abs().max() > 1e-3 * second.abs().max()


def test_first_order_is_the_plain_gradient_and_forms_no_weight_gradient():
    problem = Problem()
    expected = torch.autograd.grad(problem.loss(problem.validation), problem.a)[0]
    seen = []

    def loss_of(batch):
        seen.append(problem.w.requires_grad)
        return problem.loss(batch)

    Architect([problem.w], [problem.a], loss_of, problem.optimizer, WORLD).first_order(problem.validation)
    torch.testing.assert_close(problem.a.grad, expected)
    assert seen == [False]
    assert problem.w.grad is None
    assert problem.w.requires_grad
