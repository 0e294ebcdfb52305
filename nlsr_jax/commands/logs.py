"""What libraries log: on today's standard error, and a plugin of JAX that does not work in one line."""

import logging
import sys

import absl.logging

_PLUGINS = "jax._src.xla_bridge"


def keep_short() -> None:
    """Have absl log to ``sys.stderr`` as it is now, and JAX log a broken plugin without a traceback."""
    absl.logging.get_absl_handler().python_handler.setStream(sys.stderr)
    logger = logging.getLogger(_PLUGINS)
    if _without_traceback not in logger.filters:
        logger.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info:
        error = record.exc_info[1]
        record.msg = f"{record.getMessage()}: {type(error).__name__}: {' '.join(str(error).split())}"
        record.args = record.exc_info = None
    return True
