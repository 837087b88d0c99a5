"""The REST API, as a browser meets it; here, what odd sites plug into DRF."""

from __future__ import annotations

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer


class ShoutingRenderer(JSONRenderer):
    """Renames keys, as camel-casing renderers do."""

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return super().render(data, accepted_media_type, renderer_context).upper()


class MarkupRenderer(BaseRenderer):
    """Knows no JSON."""

    media_type = "application/xml"
    format = "xml"
    charset = "utf-8"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return b"<markup/>"


class WhateverIsFirst(BaseContentNegotiation):
    """Ignores what the client accepts."""

    def select_parser(self, request, parsers):
        return parsers[0]

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], renderers[0].media_type
