"""What type checkers see of `types.py`: which tensors may be None depends on the call, and tensors may be arrays.

`Keypoints` alone is `Keypoints[Tensor, Tensor | None]`. At run time there is one class, and no parameters: a tuple with
names cannot have any in Python 3.10.
"""

from typing import Any, Generic, NamedTuple

from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self, TypeVar

_A = TypeVar("_A", bound=Tensor | NDArray[Any], default=Tensor, covariant=True)
_C = TypeVar("_C", bound=Tensor | NDArray[Any] | None, default=Tensor | None, covariant=True)

class Keypoints(NamedTuple, Generic[_A, _C]):
    coords: _A
    scores: _A
    covariances: _C = ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def cpu(self) -> Self: ...
    def numpy(self) -> Keypoints[NDArray[Any], Any]: ...

class SimCCKeypoints(NamedTuple, Generic[_A, _C]):
    coords: _A
    scores: _A
    visibility: _C = ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def cpu(self) -> Self: ...
    def numpy(self) -> SimCCKeypoints[NDArray[Any], Any]: ...

class Peaks(NamedTuple, Generic[_A, _C]):
    coords: _A
    scores: _A
    counts: _A
    covariances: _C = ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def cpu(self) -> Self: ...
    def numpy(self) -> Peaks[NDArray[Any], Any]: ...

class KeptPoses(NamedTuple, Generic[_A]):
    keep: _A
    indices: _A
    counts: _A
    scores: _A

    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def cpu(self) -> Self: ...
    def numpy(self) -> KeptPoses[NDArray[Any]]: ...
