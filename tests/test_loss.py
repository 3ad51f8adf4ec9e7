import pytest
import torch

from partnas.loss import pose_loss, root_loss


def test_loss_by_hand():
    predicted = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [4.0, 0.0, 9.0]]])
    target = torch.zeros(2, 2, 3)
    visible = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    has_depth = torch.tensor([1.0, 0.0])
    assert pose_loss(predicted, target, visible, has_depth).item() == torch.tensor([2.0, 0.0, 0.0, 4 / 3]).mean().item()


def test_root_loss_by_hand():
    predicted = torch.tensor([[1.0, 2.0, 1.5], [4.0, 4.0, 2.0], [9.0, 9.0, 9.0]])
    target = torch.tensor([[0.0, 4.0, 3100.0], [5.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    k, visible, has_depth = torch.tensor([2000.0] * 3), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    found = root_loss(predicted, target, k, visible, has_depth)
    assert found.item() == pytest.approx(((1 + 2 + 100) / 3 + 1 / 3 + 0) / 3)


def test_root_loss_has_no_gradient_where_nothing_is_known():
    predicted = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    rest = torch.zeros(2, 3, dtype=torch.float64), torch.full((2,), 3e3, dtype=torch.float64)
    root_loss(predicted, *rest, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).backward()
    assert predicted.grad.tolist() == [[1 / 6, 1 / 6, 0], [0, 0, 0]]
