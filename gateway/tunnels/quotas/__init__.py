"""Quotas: what each client address may use of a route, counted exactly over all workers, in shared memory.

See ``docs/decisions/limits.md`` for why it is built like this.
"""
