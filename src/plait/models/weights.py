"""Takes a model's tensors by name and shape, and says which it lacks, which do not fit and which nobody asked for.

Knows tensors of a source; knows no architecture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from plait.errors import UnsupportedModelError
from plait.formats.check import require_tensor
from plait.formats.random import RandomSource, RandomTensor
from plait.formats.tensor import LazyTensor, ModelSource
from plait.models.views import Ones, RowIndex, StackOf, TransposeOf, is_plain, rows_of
from plait.ops.api import Weight


@dataclass(slots=True)
class WeightReader:
    """Hands out each tensor of `source`, or a view of it, as a Weight, the same object each time, and remembers which
    it handed out. Every method raises ModelFileError for a tensor that is missing or of another shape."""

    source: ModelSource
    taken: dict[str, Weight] = field(default_factory=dict)
    _used: dict[str, LazyTensor] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.source.tensors

    def take(self, name: str, *shape: int, transposed: bool = False) -> Weight:
        """The tensor `name`; `transposed`: it is stored with its axes the other way round."""
        if transposed:
            return self._once(f"{name}[transposed]", lambda: self._transposed(name, shape))
        return self._once(name, lambda: self._use(name, shape))

    def rows(self, whole: Weight, rows: slice | RowIndex, label: str) -> Weight:
        """Rows of a matrix, or elements of a vector, that was taken; `label` names them."""
        return self._once(f"{whole.name}[{label}]", lambda: rows_of(whole.tensor, rows, label))

    def stack(self, pattern: str, count: int, width: int) -> Weight:
        """The vectors `pattern` with 0, 1, ... put in, as rows of a matrix."""
        names = [pattern.format(i) for i in range(count)]
        return self._once(pattern, lambda: StackOf(pattern, tuple(self._use(name, (width,)) for name in names)))

    def ones(self, width: int) -> Weight:
        return self._once(f"ones({width})", lambda: Ones(f"ones({width})", (width,)))

    def _once(self, key: str, make: Callable[[], LazyTensor]) -> Weight:
        if key not in self.taken:
            self.taken[key] = Weight(make())
        return self.taken[key]

    def _use(self, name: str, shape: tuple[int, ...]) -> LazyTensor:
        if isinstance(self.source, RandomSource):
            tensor: LazyTensor = RandomTensor(name, shape)
        else:
            tensor = require_tensor(self.source, name, shape)
        self._used[name] = tensor
        return tensor

    def _transposed(self, name: str, shape: tuple[int, ...]) -> LazyTensor:
        tensor = self._use(name, shape[::-1])
        if not is_plain(tensor):
            raise UnsupportedModelError(
                self.source.path,
                f"is of type {tensor.format} and stored transposed; Plait reads that unquantised",
                name,
            )
        return TransposeOf(tensor)

    def check_all_taken(self, unused: re.Pattern[str]) -> None:
        """Raises UnsupportedModelError if there are tensors that nobody took and `unused` does not match: the model
        would be computed without them, that is, wrongly."""
        left = [name for name in self.source.tensors if name not in self._used and not unused.fullmatch(name)]
        if left:
            more = f" and {len(left) - 1} more tensors have" if len(left) > 1 else " has"
            raise UnsupportedModelError(
                self.source.path, f"'{left[0]}'{more} no place in this architecture: the file holds another model"
            )

    def n_parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self._used.values())

    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(tensor.nbytes for tensor in self._used.values())
