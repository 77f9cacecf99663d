"""Text to token ids and back, incremental; chat templates; stop strings.

Knows nothing of engines and faces. Jinja and the `tokenizers` library are loaded when they are needed.
"""

from plait.tokenizer.decode import StreamDecoder
from plait.tokenizer.stop import StopChecker
from plait.tokenizer.tokenizer import Tokenizer

__all__ = ["StopChecker", "StreamDecoder", "Tokenizer"]
