"""Loaded in each local worker (Dask's preload): one without memory ends, and another takes its place.

A worker that cannot even unpack a task for want of memory would log that again and again and never answer,
so that its runner waited for ever. A task's own error reaches the runner; only what comes outside of tasks is
seen here.
"""

from __future__ import annotations

import logging
import os

from kvhelpers.errors import is_out_of_memory

OUT_OF_MEMORY = 3  # exit status
LOGGERS = ("distributed", "tornado", "tornado.application", "asyncio")


class EndWithoutMemory(logging.Handler):
    """Ends the process at a message about an error for want of memory."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            if is_out_of_memory(error):
                os._exit(OUT_OF_MEMORY)  # what else it did would need memory
            error = error.__cause__ or error.__context__


def dask_setup(worker: object) -> None:
    """Watch the messages before they are written."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [EndWithoutMemory(), *logger.handlers]
