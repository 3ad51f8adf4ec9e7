"""A job's step on a GPU, recorded once as a CUDA graph and replayed: the host launches one thing, not thousands."""

import sys
from collections.abc import Callable
from typing import Any

import torch

Batch = dict[str, torch.Tensor]
Step = Callable[[Batch], torch.Tensor]

WARM_UP = 3
"""Steps that run as they are before one is recorded: they make the optimizer's state and the libraries' workspaces."""


class GraphedStep:
    """``step(batch)``, from its fourth call on as a CUDA graph.

    Nothing is computed twice or for nothing: the calls before the recording are steps like any other, and recording
    itself changes no number. Where a step cannot be recorded, one line says why, and it goes on as it is.

    Args:
        step: Takes a batch of tensors on one GPU and returns a scalar. It must not synchronise with the host, and what
            it changes, such as parameters and an optimizer's state (see :func:`adam`), must stay where it is in memory.
        name: For the line that says why not.
        beside: Another step to share memory with; the two must run one after the other, and a replay of either may
            overwrite the result of the other.
    """

    def __init__(self, step: Step, name: str, beside: "GraphedStep | None" = None):
        self._step, self._name = step, name
        self._pool = beside._pool if beside else torch.cuda.graph_pool_handle()
        self._stream = beside._stream if beside else torch.cuda.Stream()
        self._calls = 0
        self._inputs: Batch = {}
        self._result: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self.failure: str | None = None

    @property
    def is_recorded(self) -> bool:
        return self._graph is not None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Do the step. The result of a replayed one is overwritten by the next."""
        self._calls += 1
        if self._graph is None and self._calls > WARM_UP and self.failure is None:
            self._record(batch)
        if self._graph is None or not self._fits(batch):
            return self._run(batch)
        for name, value in batch.items():
            self._inputs[name].copy_(value, non_blocking=True)
        self._graph.replay()
        return self._result

    def _fits(self, batch: Batch) -> bool:
        return batch.keys() == self._inputs.keys() and all(
            value.shape == self._inputs[name].shape and value.dtype == self._inputs[name].dtype
            for name, value in batch.items()
        )

    def _run(self, batch: Batch) -> torch.Tensor:
        """The step as it is, on the stream that it is recorded on."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self._step(batch).detach()
        current.wait_stream(self._stream)
        return result

    def _record(self, batch: Batch) -> None:
        inputs = {name: value.clone() for name, value in batch.items()}
        current = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            # Loader threads may pin memory meanwhile: only what this thread does must be recordable.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = self._step(inputs).detach()
        except Exception as error:
            # Ending a recording that went wrong fails by itself, and leaves its stream the current one; what went wrong
            # is the error before.
            torch.cuda.set_stream(current)
            cause = error.__context__ or error
            self.failure = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            print(f"partnas: the {self._name} runs without a CUDA graph: {self.failure}", file=sys.stderr, flush=True)
            return
        self._inputs, self._result, self._graph = inputs, result, graph


def adam(parameters: list[torch.nn.Parameter], device: torch.device, lr: float, **options: Any) -> torch.optim.Adam:
    """Adam; on a GPU one whose step can be recorded, with its learning rate on the device."""
    if device.type != "cuda":
        return torch.optim.Adam(parameters, lr=lr, **options)
    options |= {"fused": True, "capturable": True}
    return torch.optim.Adam(parameters, lr=torch.tensor(lr, device=device), **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the rate of all groups; a recorded step follows."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


_OF_THE_DEVICE = ("lr", "fused", "foreach", "capturable")
"""What groups of an optimizer say that depends on the device it runs on."""


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, the same whatever device it runs on."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def restore_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of :func:`state_of`; what depends on the device stays as it is here."""
    groups = []
    for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        groups.append({**saved, **{name: own[name] for name in _OF_THE_DEVICE}})
    optimizer.load_state_dict({**state, "param_groups": groups})
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(float(saved["lr"]))
        else:
            group["lr"] = saved["lr"]
