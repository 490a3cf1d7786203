"""What a user holds: the Python client, and the `nightshift` command.

from nightshift import Client

Client().separate("episode.mp3", prompts=["speech"]).wait().download("out/")
"""

from nightshift.client import Client, Job
from nightshift.errors import ApiError, JobEnded, NightshiftClientError, Unreachable
from nightshift.voices import Voice

__all__ = ["ApiError", "Client", "Job", "JobEnded", "NightshiftClientError", "Unreachable", "Voice"]
