"""How wrong a set of 3D poses is."""

from partnas.metrics.errors import mpjpe, pa_mpjpe, part_errors, pose_report, procrustes
from partnas.metrics.roots import mrpe, root_report

__all__ = ["mpjpe", "mrpe", "pa_mpjpe", "part_errors", "pose_report", "procrustes", "root_report"]
