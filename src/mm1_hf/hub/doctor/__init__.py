"""`mm1 doctor`: does a checkpoint load, and work, for others as it does for its maker?"""

from mm1_hf.hub.doctor.examine import CHECKS, examine
from mm1_hf.hub.doctor.findings import Diagnosis, Finding

__all__ = ["CHECKS", "Diagnosis", "Finding", "examine"]
