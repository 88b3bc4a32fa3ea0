"""The index of a sample together with the number of its draw, so that augmentation belongs to the draw."""

from __future__ import annotations


class SampleIndex(int):
    """An index into a data set that also knows which draw of the whole run it is.

    A resumable sampler yields these. The data set seeds the sample's augmentation from (seed, draw), so a run is the
    same for any number of loader workers and ranks, and after a resume. Everything else sees a plain ``int``.

    Attributes:
        draw: Number of the draw, counted from 0 over the whole run and over all ranks.
    """

    draw: int

    def __new__(cls, index: int, draw: int) -> SampleIndex:
        """Make the index of one draw.

        Raises:
            ValueError: If ``draw`` is negative.
        """
        if draw < 0:
            raise ValueError(f"SampleIndex: draw must be 0 or more, found {draw}.")
        self = super().__new__(cls, index)
        self.draw = int(draw)
        return self

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[int, int]]:
        """Pickle with the draw, as the queues to loader workers need."""
        return type(self), (int(self), self.draw)

    def __repr__(self) -> str:
        """Show both numbers."""
        return f"SampleIndex({int(self)}, draw={self.draw})"
