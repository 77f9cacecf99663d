"""Takes a model's tensors by name and shape, and says which it lacks, which do not fit and which nobody asked for.

Knows tensors of a source; knows no architecture.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from plait.errors import UnsupportedModelError
from plait.formats.check import require_tensor
from plait.formats.random import RandomSource, RandomTensor
from plait.formats.tensor import ModelSource
from plait.ops.api import Weight


@dataclass(slots=True)
class WeightReader:
    """Hands out each tensor of `source` as a Weight, and remembers which it handed out."""

    source: ModelSource
    taken: dict[str, Weight] = field(default_factory=dict)

    def take(self, name: str, *shape: int) -> Weight:
        """The tensor `name`, the same object each time. Raises ModelFileError if it is missing or of another shape."""
        if isinstance(self.source, RandomSource):
            return self.taken.setdefault(name, Weight(RandomTensor(name, shape)))
        return self.taken.setdefault(name, Weight(require_tensor(self.source, name, shape)))

    def check_all_taken(self, unused: re.Pattern[str]) -> None:
        """Raises UnsupportedModelError if there are tensors that nobody took and `unused` does not match: the model
        would be computed without them, that is, wrongly."""
        left = [name for name in self.source.tensors if name not in self.taken and not unused.fullmatch(name)]
        if left:
            more = f" and {len(left) - 1} more tensors have" if len(left) > 1 else " has"
            raise UnsupportedModelError(
                self.source.path, f"'{left[0]}'{more} no place in this architecture: the file holds another model"
            )

    def n_parameters(self) -> int:
        return sum(math.prod(weight.shape) for weight in self.taken.values())

    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(weight.tensor.nbytes for weight in self.taken.values())
