"""Log lines that text from outside cannot forge: each record is one printable line.

Flag keys, ids, replies, paths and settings may contain newlines and terminal control codes. The
loggers of this package escape them in messages and in the exception texts of tracebacks.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from dataclasses import dataclass

MAX_CHARACTERS = 4000
"""The length at which a log message is cut."""


def printable(text: str) -> str:
    """Return `text` with unprintable characters, such as newlines and ANSI codes, escaped."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


@dataclass(frozen=True, slots=True)
class EscapeFilter:
    """A logging filter that escapes and cuts messages. It drops no record."""

    max_characters: int = MAX_CHARACTERS

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the message and the traceback of `record`. Leave a malformed message as it is."""
        with suppress(TypeError, ValueError):  # the handler reports a malformed message
            message = record.getMessage()
            if len(message) > self.max_characters or not message.isprintable():
                escaped = printable(message[: self.max_characters])[: self.max_characters]
                record.msg, record.args = "%s", (escaped,)
        if record.exc_info and record.exc_info[1] is not None:
            # A formatter uses this text instead of one that it makes of the exception.
            record.exc_text = _format_traceback(record.exc_info[1], self.max_characters)
        return True


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, with an `EscapeFilter`."""
    logger = logging.getLogger(name)
    logger.addFilter(_filter)  # the same one is added once
    return logger


_filter = EscapeFilter()


def _format_traceback(error: BaseException, max_characters: int) -> str:
    """Return the traceback of `error` and its causes, each exception's text on one line."""
    chunks = []
    for chunk in traceback.TracebackException.from_exception(error).format():
        text = chunk.removesuffix("\n")
        if not text.startswith((" ", "\n", "Traceback ")):  # an exception: its type and text
            text = printable(text[:max_characters])[:max_characters]
        chunks.append("\n".join(map(printable, text.split("\n"))))
    return "\n".join(chunks)
