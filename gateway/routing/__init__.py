"""Which backend gets this request: routes, in order; then a backend of the route's upstream.

``routes``    what a request must look like, and what a matching one gets
``balancing`` in which order the backends of an upstream are tried
``registry``  numbers for the names of routes and backends, as rows of the shared table hold them
"""
