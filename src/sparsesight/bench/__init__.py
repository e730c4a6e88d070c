"""Dense against sparse on one machine: interleaved runs, medians with spread, beside the FLOPs-implied limit."""

from .cases import Case
from .machine import environment
from .runs import bench
from .timing import DECODE, PREFILL, Times, timed_decoder

__all__ = ["DECODE", "PREFILL", "Case", "Times", "bench", "environment", "timed_decoder"]
