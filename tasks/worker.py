"""The name of this worker."""

from __future__ import annotations

import os
import socket

# By its main process. Its children have the name too: they are forked after this line has run.
WORKER = f"{socket.gethostname()}:{os.getpid()}"
