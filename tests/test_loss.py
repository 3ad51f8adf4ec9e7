import torch

from partnas.loss import pose_loss


def test_loss_by_hand():
    predicted = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [4.0, 0.0, 9.0]]])
    target = torch.zeros(2, 2, 3)
    visible = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    has_depth = torch.tensor([1.0, 0.0])
    assert pose_loss(predicted, target, visible, has_depth).item() == torch.tensor([2.0, 0.0, 0.0, 4 / 3]).mean().item()
