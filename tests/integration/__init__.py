import pytest

# What they assert tells what it found, as tests do.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("clients", "layouts", "services", "upgrades")))
