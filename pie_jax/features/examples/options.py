"""The settings of a pass over a corpus."""

from __future__ import annotations

from dataclasses import dataclass

from pie_jax.errors import InputError


@dataclass(frozen=True)
class ExampleOptions:
    """`window` tokens a window, BOS counted; how many windows to keep of each kind; `histogram`
    steps; `neighbours` features with the nearest decoders (0 leaves the search out);
    `max_windows` ends the corpus early; `batch_size` windows run side by side.
    """

    window: int = 32
    top: int = 50
    per_decile: int = 10
    inactive: int = 60
    histogram: int = 20
    neighbours: int = 5
    max_windows: int | None = None
    batch_size: int = 32
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for a setting that cannot be."""
        least = {"window": 2, "top": 1, "per_decile": 1, "inactive": 1, "histogram": 1}
        least |= {"neighbours": 0, "batch_size": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(
                    f"examples: `{name}` is {getattr(self, name)}; it must be {lowest} or more."
                )
        if self.max_windows is not None and self.max_windows < 1:
            raise InputError(f"examples: `max_windows` is {self.max_windows}; it must be positive.")
