"""The control channel: what supervisor and worker say to each other, over a socket pair that nobody else has.

``messages``  one named tuple for each message, and ``VERSION``
``wire``      a message as bytes, and back
``plain``     any value of an annotated type as plain data of JSON, and back
``channel``   one end of the socket pair; descriptors come along with messages
"""
