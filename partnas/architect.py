"""The gradient of the validation loss with respect to the alphas (Eq. 5 of the paper)."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from partnas.distributed import World

LossOf = Callable[[Any], torch.Tensor]


@contextmanager
def frozen(parameters: list[torch.nn.Parameter]):
    """Form no gradient of ``parameters`` inside the block."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def gradients(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def adam_step(
    optimizer: torch.optim.Adam, parameter: torch.nn.Parameter, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What Adam would subtract from ``parameter``, and the derivative of that with respect to ``gradient``.

    With m' = b1 m + (1-b1) g, v' = b2 v + (1-b2) g^2, c1 = 1-b1^t, c2 = 1-b2^t and d = sqrt(v'/c2) + eps, the step is
    lr/c1 * m'/d, and its derivative, element by element,
    lr/c1 * ((1-b1)/d - m' * (1-b2) g / (sqrt(v' c2) d^2)).
    """
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    beta1, beta2 = group["betas"]
    state = optimizer.state.get(parameter, {})
    mean = state.get("exp_avg", torch.zeros_like(parameter))
    square = state.get("exp_avg_sq", torch.zeros_like(parameter))
    step = state.get("step", 0.0)
    # On a GPU it stays there: reading it would wait for the device.
    time = 1 + (step if isinstance(step, torch.Tensor) and step.is_cuda else float(step))
    correction1, correction2 = 1 - beta1**time, 1 - beta2**time
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    root = square.sqrt()
    denominator = root / correction2**0.5 + group["eps"]
    rate = group["lr"] / correction1
    slope = torch.where(root > 0, (1 - beta2) * gradient / (root * correction2**0.5), torch.zeros_like(root))
    return rate * mean / denominator, rate * ((1 - beta1) / denominator - mean * slope / denominator**2)


class Architect:
    """Fills the gradients of the alphas for one architecture step.

    Args:
        weights: The network's weights w.
        alphas: The architecture parameters.
        loss_of: Maps a batch to the loss of the network.
        weight_optimizer: The Adam that updates w; second order looks one of its steps ahead.
        world: The processes to average over.
    """

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        alphas: list[torch.nn.Parameter],
        loss_of: LossOf,
        weight_optimizer: torch.optim.Adam,
        world: World,
    ):
        self.weights, self.alphas, self.loss_of = weights, alphas, loss_of
        self.weight_optimizer, self.world = weight_optimizer, world

    def first_order(self, validation_batch: Any) -> torch.Tensor:
        """Gradient at the current weights (xi = 0 in Eq. 5); no weight gradient is formed.

        Returns:
            The validation loss.
        """
        with frozen(self.weights):
            loss = self.loss_of(validation_batch)
            self._assign(gradients(loss, self.alphas))
        return loss.detach()

    def second_order(self, train_batch: Any, validation_batch: Any) -> torch.Tensor:
        """Gradient through one step of the weights, w' = w - step(grad_w L_train(w, alpha)).

        The product with the second derivative of L_train is the central difference that DARTS uses, with
        R = 0.01 / ||u||; u is the gradient of L_val at w' times the derivative of Adam's own step (plain SGD would have
        xi in its place).

        Returns:
            The validation loss at w'.
        """
        with frozen(self.alphas):
            train_gradients = gradients(self.loss_of(train_batch), self.weights)
        train_gradients = self._averaged(train_gradients)
        kept = [w.detach().clone() for w in self.weights]
        steps, slopes = zip(
            *(adam_step(self.weight_optimizer, w, g) for w, g in zip(self.weights, train_gradients, strict=True)),
            strict=True,
        )
        try:
            self._place(kept, -1.0, steps)
            loss = self.loss_of(validation_batch)
            found = gradients(loss, [*self.alphas, *self.weights])
            direct = found[: len(self.alphas)]
            lookahead = self._averaged(found[len(self.alphas) :])
            direction = [slope * g for slope, g in zip(slopes, lookahead, strict=True)]
            norm = torch.sqrt(sum((d**2).sum() for d in direction))
            # Where there is no direction, any radius gives no difference.
            radius = torch.where(norm > 0, 0.01 / norm, 1.0)
            above = self._alpha_gradients_at(kept, direction, radius, train_batch)
            below = self._alpha_gradients_at(kept, direction, -radius, train_batch)
            direct = [d - (a - b) / (2 * radius) for d, a, b in zip(direct, above, below, strict=True)]
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, kept, strict=True):
                    weight.copy_(value)
        self._assign(direct)
        return loss.detach()

    def _place(self, base: list[torch.Tensor], factor: float | torch.Tensor, direction: Any) -> None:
        with torch.no_grad():
            for weight, start, change in zip(self.weights, base, direction, strict=True):
                weight.copy_(start + factor * change)

    def _alpha_gradients_at(
        self, base: list[torch.Tensor], direction: list[torch.Tensor], radius: torch.Tensor, batch: Any
    ) -> list[torch.Tensor]:
        self._place(base, radius, direction)
        with frozen(self.weights):
            return gradients(self.loss_of(batch), self.alphas)

    def _averaged(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.world.size == 1:
            return values
        mean = self.world.average(torch.cat([v.reshape(-1) for v in values]))
        return [part.view_as(v) for part, v in zip(mean.split([v.numel() for v in values]), values, strict=True)]

    def _assign(self, values: list[torch.Tensor]) -> None:
        for alpha, value in zip(self.alphas, self._averaged(values), strict=True):
            alpha.grad = value


def weight_step(architect: Architect, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One step of the weights on a training batch, at fixed alphas.

    Returns:
        The training loss.
    """
    architect.weight_optimizer.zero_grad(set_to_none=True)
    with frozen(architect.alphas):
        loss = architect.loss_of(batch)
        loss.backward()
    architect.world.average_gradients(architect.weights)
    architect.weight_optimizer.step()
    return loss


def first_order_step(
    architect: Architect, alpha_optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """One step of the alphas on a validation batch, at fixed weights.

    Returns:
        The validation loss.
    """
    loss = architect.first_order(batch)
    alpha_optimizer.step()
    return loss
