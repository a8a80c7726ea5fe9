"""The control channel: messages between supervisor and worker, over a private socket pair.

``messages``  one named tuple per message, and ``VERSION``
``wire``      encodes and decodes messages
``plain``     converts any value of an annotated type to plain JSON data, and back
``channel``   one end of the socket pair; messages may carry a descriptor
"""
