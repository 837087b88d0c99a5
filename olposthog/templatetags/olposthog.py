"""`{% load olposthog %}`: flags in Django templates."""

from __future__ import annotations

from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import TemplateSyntaxError
from django.template.base import FilterExpression, NodeList, Parser, Token, token_kwargs
from django.utils.html import json_script
from django.utils.safestring import SafeString

from olposthog.bootstrap import bootstrap
from olposthog.features import for_request, get_feature_flag, get_feature_flag_payload
from olposthog.guards._condition import FlagCondition
from olposthog.snapshot import Runtime

register = template.Library()


@register.tag
def flag(parser: Parser, token: Token) -> FlagNode:
    """Render what follows for those who have the flag, and the part after `{% elseflag %}` else.

    `{% flag "checkout" variant="test" %}` is for those who have that variant. Ends with
    `{% endflag %}`. Rendering it reports the exposure.
    """
    _, *rest = token.split_contents()
    name, rest = rest[:1], rest[1:]
    options = token_kwargs(rest, parser)  # takes them from `rest`
    if not name or token_kwargs(name.copy(), parser) or rest or options.keys() - {"variant"}:
        raise _malformed(token, '{% flag "key" %} or {% flag "key" variant="test" %}')
    on = parser.parse(("elseflag", "endflag"))
    end = parser.next_token()
    off = NodeList()
    if end.contents == "elseflag":
        off = parser.parse(("endflag",))
        end = parser.next_token()
    if end.contents != "endflag":
        raise _malformed(end, "{% elseflag %}, at most once, and {% endflag %}")
    return FlagNode(parser.compile_filter(name[0]), options.get("variant"), on, off)


class FlagNode(template.Node):
    """Renders one of two parts; the other is not evaluated."""

    child_nodelists = ("on", "off")

    def __init__(
        self,
        name: FilterExpression,
        variant: FilterExpression | None,
        on: NodeList,
        off: NodeList,
    ) -> None:
        self.name, self.variant, self.on, self.off = name, variant, on, off

    def render(self, context: template.Context) -> SafeString:
        """Return the part for whoever the context's request is from."""
        condition = FlagCondition(
            _text(self.name, "flag", context),
            _text(self.variant, "variant", context) if self.variant else None,
        )
        shown = self.on if condition.holds(_request(context, "flag")) else self.off
        return shown.render(context)


@register.simple_tag(takes_context=True)
def flag_variant(context: template.Context, name: str) -> bool | str:
    """Return the flag's variant, or whether it is on if it has none. Reports the exposure."""
    return get_feature_flag(_checked(name, "flag"), request=_request(context, "flag_variant"))


@register.tag
def flag_payload(parser: Parser, token: Token) -> PayloadNode:
    """Put the flag's payload, decoded, or None, into a variable of the template."""
    match token.split_contents():
        case [_, name, "as", target]:
            return PayloadNode(parser.compile_filter(name), target)
    raise _malformed(token, '{% flag_payload "key" as details %}')


class PayloadNode(template.Node):
    """Sets a variable of the template."""

    def __init__(self, name: FilterExpression, target: str) -> None:
        self.name, self.target = name, target

    def render(self, context: template.Context) -> str:
        """Set it, and return nothing to be shown."""
        context[self.target] = get_feature_flag_payload(
            _text(self.name, "flag", context), request=_request(context, "flag_payload")
        )
        return ""


@register.simple_tag(takes_context=True)
def posthog_bootstrap(context: template.Context) -> SafeString:
    """Render posthog-js's option `bootstrap` as a JSON script with the id `posthog-bootstrap`.

    It is about the person whom the request is from, and reports no exposure.
    """
    request = _request(context, "posthog_bootstrap")
    return json_script(bootstrap(for_request(request, runtime=Runtime.CLIENT)), "posthog-bootstrap")


def _malformed(token: Token, form: str) -> TemplateSyntaxError:
    return TemplateSyntaxError(f"{{% {token.contents} %}} is malformed; write {form}.")


def _request(context: template.Context, tag: str) -> HttpRequest:
    # A RequestContext keeps it also where `{% include … only %}` takes the variables away.
    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise ImproperlyConfigured(
            f"{{% {tag} %}} needs the request: render the template with it, as "
            'render(request, "page.html") does.'
        )
    return request  # type: ignore[no-any-return]  # whatever request the view was given


def _text(expression: FilterExpression, what: str, context: template.Context) -> str:
    value = expression.resolve(context, ignore_failures=True)
    return _checked(value, what, str(expression))


def _checked(value: Any, what: str, written: str = "") -> str:
    if not isinstance(value, str) or not value:
        shown = f"{written} is {value!r}" if written else f"it is {value!r}"
        raise TemplateSyntaxError(f"The name of a {what} must be text; {shown}.")
    return value
