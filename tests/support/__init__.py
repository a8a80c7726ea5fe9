"""What integration and peers tests share.

``deadline``   how long anything may take
``ports``      ports that nobody listens on
``raw``        one TCP or unix connection, bytes in and out, each with a deadline
``frames``     WebSocket frames as bytes
``output``     lines of a process as they come
``process``    a process that tests start and stop
``gateway``    a real gateway, run as a process
``scrape``     a scrape of its metrics
``memory``     what processes take
``rest``       workers that have nothing in their hands
``pace``       how fast the machine is meanwhile
``backends``   servers behind it
"""
