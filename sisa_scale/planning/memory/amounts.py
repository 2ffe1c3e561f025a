"""Bytes as a function of the sequences in a micro-batch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes of each sequence, and bytes that do not depend on their number. Ordered by large batches first."""

    per_sequence: int = 0
    fixed: int = 0

    @classmethod
    def of(cls, num_bytes: int, sequences: int) -> "Amount":
        """Return what a tensor of a trace is: with the batch if the (prime) number of sequences divides its bytes."""
        return cls(num_bytes // sequences, 0) if num_bytes % sequences == 0 else cls(0, num_bytes)

    def at(self, sequences: int) -> int:
        """Return the bytes of a micro-batch."""
        return self.per_sequence * sequences + self.fixed

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.per_sequence + other.per_sequence, self.fixed + other.fixed)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.per_sequence - other.per_sequence, self.fixed - other.fixed)

    def __lt__(self, other: "Amount") -> bool:
        return (self.per_sequence, self.fixed) < (other.per_sequence, other.fixed)


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that is kept: its name or shape, and its bytes."""

    name: str
    amount: Amount
