"""Which backend gets this request: routes, in order; then a backend of the route's upstream.

``routes``    the routes in force, in order, and what a request gets on one
``matching``  what a request must look like for a route to take it; a new condition goes here
``limits``    a route's timeouts and keepalive, in nanoseconds
``upstream``  a named group of backends
``balancing`` how one of an upstream's backends is chosen: a policy a file
``attempts``  which backend and address a tunnel or request tries next
``registry``  numbers for the names of routes and backends, as rows of the shared table hold them
"""
