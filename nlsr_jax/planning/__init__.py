"""What runs take, from shapes alone: bytes on each device, and memory, disk and time of a streamed base."""

from nlsr_jax.planning.memory import Load, Plan, logit_bytes, plan, size_of
from nlsr_jax.planning.streamed import Speed, StreamedPlan, measure_speed, plan_streamed

__all__ = [
    "Load",
    "Plan",
    "Speed",
    "StreamedPlan",
    "logit_bytes",
    "measure_speed",
    "plan",
    "plan_streamed",
    "size_of",
]
