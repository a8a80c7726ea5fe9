"""Who may come in: the rules of a route, checked before a backend is chosen."""
