"""What may go wrong in a benchmark run."""


class BenchError(Exception):
    """A measurement could not be made; the message says whose and why."""
