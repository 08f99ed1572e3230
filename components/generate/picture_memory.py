"""What the vision tower saw of pictures, for as long as there is room: benchmarks ask many questions about one picture."""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

MOST_BYTES = 2 << 30  # 1,800 pictures of CLIP ViT-L/14@336 in bf16


class PictureMemory:
    """Features by picture; the one that was not needed for longest makes room. They are kept in the machine's memory, not the GPU's.

    Args:
        most_bytes: How much is kept.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._features: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __contains__(self, picture: Hashable) -> bool:
        """Tell whether a picture is remembered; another thread may ask."""
        return picture in self._features

    def get(self, picture: Hashable) -> Tensor | None:
        """Return what was seen of a picture, where it was kept; None where it is not remembered."""
        features = self._features.get(picture)
        if features is not None:
            self._features.move_to_end(picture)
        return features

    def put(self, picture: Hashable, features: Tensor) -> None:
        """Remember what was seen of a picture that is not remembered."""
        kept = features.to("cpu").clone()  # a view would keep the whole batch's
        self._features[picture] = kept
        self._bytes += kept.nbytes
        while self._bytes > self._most_bytes:
            _, oldest = self._features.popitem(last=False)
            self._bytes -= oldest.nbytes
