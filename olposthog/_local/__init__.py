"""Local evaluation: flag definitions in the process, and what they decide without any I/O."""

from .definitions import Definitions, DefinitionsError, parse, parse_strictly
from .evaluation import LocalEvaluation
from .evaluator import LocalEvaluator, prepare
from .file import DefinitionsFile, read, read_strictly

__all__ = [
    "Definitions",
    "DefinitionsError",
    "DefinitionsFile",
    "LocalEvaluation",
    "LocalEvaluator",
    "parse",
    "parse_strictly",
    "prepare",
    "read",
    "read_strictly",
]
