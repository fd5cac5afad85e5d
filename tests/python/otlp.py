"""Reads exports of spans with OpenTelemetry's own message types and prints them as JSON, one line for each file. Arguments:
the files."""

import json
import sys

from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def check_known(message):
    """Fails where a field is not one of OTLP's."""
    if len(UnknownFieldSet(message)) > 0:
        raise SystemExit(f"{message.DESCRIPTOR.full_name} has fields that are unknown")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                check_known(inner)


for path in sys.argv[1:]:
    with open(path, "rb") as file:
        request = ExportTraceServiceRequest.FromString(file.read())
    check_known(request)
    print(json.dumps(MessageToDict(request)))
