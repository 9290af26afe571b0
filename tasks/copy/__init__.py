"""The task's files as a package, for configs of the trainer."""

import sys

from . import episodes

# The scripts here are run as files, and import those beside them by bare names.
sys.modules.setdefault("episodes", episodes)
