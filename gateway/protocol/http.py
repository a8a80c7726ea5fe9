"""What was in one file, by the names that others import."""

from gateway.protocol.answers import ResponseReader as ResponseReader
from gateway.protocol.fields import hop_by_hop as hop_by_hop
from gateway.protocol.fields import only_upgrade_is_hop_by_hop as only_upgrade_is_hop_by_hop
from gateway.protocol.fields import request_bytes as request_bytes
from gateway.protocol.fields import response_bytes as response_bytes
from gateway.protocol.heads import MAX_FIELDS as MAX_FIELDS
from gateway.protocol.heads import MAX_HEAD_BYTES as MAX_HEAD_BYTES
from gateway.protocol.heads import BadHead as BadHead
from gateway.protocol.heads import BadResponse as BadResponse
from gateway.protocol.heads import Field as Field
from gateway.protocol.heads import Head as Head
from gateway.protocol.heads import RequestHead as RequestHead
from gateway.protocol.heads import ResponseHead as ResponseHead
from gateway.protocol.requests import RequestReader as RequestReader
from gateway.protocol.requests import check_request as check_request
