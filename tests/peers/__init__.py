"""A real gateway with real peers in front of it, behind it and beside it. ``install.sh`` installs what is missing."""
