"""When a backend is in service: rules without I/O; the clock is an argument.

``checks.py`` makes a state of the results of health checks, ``ejection.py`` of the failures that workers report.
"""
