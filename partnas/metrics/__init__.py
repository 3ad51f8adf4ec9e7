"""How wrong a set of 3D poses is."""

from partnas.metrics.errors import mpjpe, pa_mpjpe, part_errors, pose_report, procrustes

__all__ = ["mpjpe", "pa_mpjpe", "part_errors", "pose_report", "procrustes"]
