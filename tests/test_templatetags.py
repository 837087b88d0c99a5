"""`{% flag %}`, `{% flag_variant %}` and `{% flag_payload %}` in Django templates."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template import Context, RequestContext, Template, TemplateSyntaxError, engines
from django.test import AsyncClient, RequestFactory
from django.urls import path

from olposthog.features import for_request
from tests.posthog_faults import Refuse
from tests.posthog_server import Flag, Variant
from tests.test_exposures import delivered, told

TEMPLATES = {
    "base.html": '{% load olposthog %}{% flag "beta" %}{% block part %}base{% endblock %}'
    "{% elseflag %}without{% endflag %}",
    "child.html": '{% extends "base.html" %}'
    "{% block part %}child of {{ block.super }}{% endblock %}",
    "including.html": '{% include "included.html" %}, {% include "included.html" only %}',
    "included.html": '{% load olposthog %}{% flag "beta" %}on{% elseflag %}off{% endflag %}',
}


def page(request: HttpRequest) -> HttpResponse:
    return render(request, request.GET["template"])


async def apage(request: HttpRequest) -> HttpResponse:
    return page(request)


urlpatterns = [path("", page), path("async/", apage)]
pytestmark = pytest.mark.urls(__name__)


@pytest.fixture(autouse=True)
def _templates(settings):
    loaders = [("django.template.loaders.locmem.Loader", TEMPLATES)]
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": loaders},
        }
    ]


@pytest.fixture
def shown() -> Callable[..., str]:
    """Return what a template shows to one visitor."""
    request = RequestFactory().get("/")

    def shown(template: str, **variables: Any) -> str:
        return Template("{% load olposthog %}" + template).render(
            RequestContext(request, variables)
        )

    return shown


# ---- {% flag %}

FLAG = '{% flag "beta" %}on{% elseflag %}off{% endflag %}'


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        (FLAG, True, "on"),
        (FLAG, "test", "on"),
        (FLAG, False, "off"),
        ('{% flag "beta" %}on{% endflag %}', True, "on"),
        ('{% flag "beta" %}on{% endflag %}', False, ""),
        ('{% flag "unknown" %}on{% elseflag %}off{% endflag %}', True, "off"),
        ('{% flag "beta" variant="test" %}on{% elseflag %}off{% endflag %}', "test", "on"),
        ('{% flag "beta" variant="test" %}on{% elseflag %}off{% endflag %}', "control", "off"),
        ('{% flag "beta" variant="test" %}on{% elseflag %}off{% endflag %}', True, "off"),
        ("{% flag name variant=wanted %}on{% elseflag %}off{% endflag %}", "test", "on"),
        ('{% flag name|slice:":4" variant=wanted|lower %}on{% endflag %}', "test", "on"),
        ('{% flag nowhere|default:"beta" %}on{% endflag %}', True, "on"),
    ],
)
def test_the_flag_chooses_the_part(enabled, shown, template, value, expected):
    """With the flag, or that variant, one part is shown, else the other; names may be variables."""
    enabled.flags = {"beta": value}

    assert shown(template, name="beta", wanted="test") == expected


def test_only_the_chosen_part_is_rendered(enabled, shown):
    """What is not shown is not evaluated either."""
    rendered = []
    enabled.flags = {"beta": True}

    shown(
        '{% flag "beta" %}{{ note.on }}{% elseflag %}{{ note.off }}{% endflag %}'
        '{% flag "other" %}{{ note.other }}{% endflag %}',
        note={name: lambda name=name: rendered.append(name) for name in ("on", "off", "other")},
    )

    assert rendered == ["on"]


def test_flags_can_be_nested_and_repeated(enabled, shown):
    """A flag within a flag, and within a loop, each time with another name."""
    enabled.flags = {"a": True, "b": False, "c": "test"}

    assert (
        shown(
            "{% for name in names %}{% flag name %}"
            '{% flag "c" variant="test" %}{{ name }}{{ forloop.counter }}{% endflag %}'
            '{% elseflag %}{% flag "b" %}{% elseflag %}-{% endflag %}{% endflag %}{% endfor %}',
            names="abca",
        )
        == "a1-c3a4"
    )
    assert len(enabled.flag_calls) == 1


@pytest.mark.parametrize(
    ("template", "on", "off"),
    [("child.html", "child of base", "without"), ("including.html", "on, on", "off, off")],
)
@pytest.mark.parametrize("url", ["/", "/async/"])
def test_inherited_and_included_templates_have_it(enabled, client, url, template, *, on, off):
    """Blocks within a flag can be filled by a child, and includes know the request, also `only`."""
    for value, expected in ((True, on), (False, off)):
        enabled.flags = {"beta": value}
        client.cookies.clear()
        assert client.get(url, {"template": template}).content.decode() == expected
        response = async_to_sync(AsyncClient().get)(url, {"template": template})
        assert response.content.decode() == expected


def test_a_page_is_its_visitors(enabled, client, db):
    """The flag is that of whoever the request is from, and the page says that it varies."""
    user = get_user_model().objects.create_user("ada")
    enabled.flags = {"beta": Flag(only_for={str(user.pk)})}

    visitors = client.get("/", {"template": "child.html"})
    client.force_login(user)
    hers = client.get("/", {"template": "child.html"})

    assert (visitors.content, hers.content) == (b"without", b"child of base")
    assert list(visitors.cookies) == ["olposthog_id"]
    assert "Cookie" in visitors["Vary"]


@pytest.mark.parametrize(
    "template",
    [FLAG, '{% flag "beta" variant="other" %}{% endflag %}', '{% flag_variant "beta" %}'],
)
def test_rendering_a_flag_is_an_exposure(enabled, template):
    """A page that shows a flag reports that, whichever part it shows."""
    enabled.flags = {"beta": "test", "other": True}
    request = RequestFactory().get("/")

    Template("{% load olposthog %}" + template).render(RequestContext(request))

    assert told(enabled) == [(for_request(request).distinct_id, "beta", "test")]


def test_an_outage_leaves_the_sites_values(enabled, shown, settings):
    """With PostHog down a template goes by `settings.FEATURES`."""
    settings.FEATURES = {"beta": "test"}
    enabled.fault = Refuse()

    assert shown(FLAG) == "on"
    assert shown('{% flag_variant "beta" %}') == "test"
    assert shown('{% flag_payload "beta" as details %}{{ details|default:"none" }}') == "none"


@pytest.fixture
def _hurried() -> Iterator[None]:
    """Threads take turns all the time, so that they meet in the middle of things."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize(
    "template",
    [
        "{% flag name variant=name %}{{ name }}{% endflag %}",
        "{% flag_variant name %}",
        "{% flag_payload name as details %}{{ details.name }}",
    ],
)
def test_one_template_serves_many_threads(enabled, template):
    """A template is compiled once and rendered for several visitors at a time, each their own."""
    names = [f"n{number}" for number in range(8)]
    enabled.flags = {name: Variant(name, payload={"name": name}) for name in names}
    compiled = Template("{% load olposthog %}" + template)
    together = threading.Barrier(len(names))
    answers: dict[str, set[str]] = {}

    def visit(name: str) -> None:
        request = RequestFactory().get("/")
        for_request(request)
        together.wait(10)
        context = RequestContext(request, {"name": name})
        answers[name] = {compiled.render(context) for _ in range(200)}

    threads = [threading.Thread(target=visit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {name: {name} for name in names}


def test_threads_show_each_person_their_own(enabled):
    """So it is where the flag is the same, and some of the visitors have it."""
    enabled.flags = {"theirs": Flag(only_for=lambda body: body["distinct_id"] > "8")}
    compiled = Template("{% load olposthog %}" + FLAG.replace("beta", "theirs"))
    visitors = [RequestFactory().get("/") for _ in range(8)]
    expected = ["on" if for_request(each).flags["theirs"] else "off" for each in visitors]

    with ThreadPoolExecutor(len(visitors)) as threads:
        shown = list(threads.map(lambda each: compiled.render(RequestContext(each)), visitors * 50))

    assert shown == expected * 50


# ---- {% flag_variant %} and {% flag_payload %}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("test", "test"), (True, "True"), (False, "False"), ("<b>", "&lt;b&gt;")],
)
def test_the_variant_can_be_shown(enabled, shown, value, expected):
    """Inline it is the variant, or on or off, escaped as any value is."""
    enabled.flags = {"checkout": value}

    assert shown("{% flag_variant name %}", name="checkout") == expected


def test_the_variant_can_be_kept(enabled, shown):
    """With `as` it is a variable, to be compared."""
    enabled.flags = {"checkout": "test"}

    assert (
        shown(
            '{% flag_variant "checkout" as variant %}'
            '{% if variant == "test" %}new {{ variant }}{% endif %}'
        )
        == "new test"
    )


def test_the_payload_is_a_variable(enabled, shown):
    """A payload's parts can be shown, escaped, and one that is not there can be replaced."""
    enabled.flags = {"checkout": Variant("test", payload={"button": "Buy & go", "steps": [1, 2]})}

    assert (
        shown(
            "{% flag_payload name as details %}{{ details.button }} {{ details.steps.1 }}"
            '{% flag_payload "unknown" as none %}{{ none.button|default:"Buy" }}{{ none }}',
            name="checkout",
        )
        == "Buy &amp; go 2BuyNone"
    )
    assert delivered(enabled) == []


def test_a_template_cannot_change_a_payload(enabled, shown):
    """Each reading has a copy of its own."""
    enabled.flags = {"checkout": Flag(payload=[1])}
    template = '{% flag_payload "checkout" as details %}{{ details }}{{ details.clear }}'

    assert shown(template) == shown(template) == "[1]None"


# ---- mistakes


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% flag %}{% endflag %}", r'write {% flag "key" %}'),
        ('{% flag variant="test" %}{% endflag %}', r'write {% flag "key" %}'),
        ('{% flag "a" "b" %}{% endflag %}', r'write {% flag "key" %}'),
        ('{% flag "a" as x %}{% endflag %}', r'write {% flag "key" %}'),
        ('{% flag "a" default="b" %}{% endflag %}', r'default="b" .*write {% flag "key" %}'),
        ('{% flag "a" variant="b" more="c" %}{% endflag %}', r'write {% flag "key" %}'),
        ('{% flag "a" variant= %}{% endflag %}', r'write {% flag "key" %}'),
        ('{% flag "a" %}', "Unclosed tag .*endflag"),
        ('{% flag "a" %}{% elseflag %}', "Unclosed tag .*endflag"),
        ('{% flag "a" %}{% else %}{% endflag %}', "'elseflag' or 'endflag'"),
        ('{% flag "a" %}{% elseflag %}{% elseflag %}{% endflag %}', "expected 'endflag'"),
        ('{% flag "a" %}{% elseflag "b" %}{% endflag %}', 'elseflag "b" .*write {% elseflag %}'),
        ('{% flag "a" %}{% endflag "a" %}', 'endflag "a" .*{% endflag %}'),
        ("{% elseflag %}", "elseflag"),
        ("{% flag_variant %}", "'flag_variant' .*'name'"),
        ('{% flag_variant "a" variant="b" %}', "'flag_variant' .*'variant'"),
        ("{% flag_payload %}", r'write {% flag_payload "key" as details %}'),
        ('{% flag_payload "a" %}', r'write {% flag_payload "key" as details %}'),
        ('{% flag_payload "a" as %}', r'write {% flag_payload "key" as details %}'),
        ('{% flag_payload "a" of details %}', r'write {% flag_payload "key" as details %}'),
    ],
)
def test_a_malformed_tag_is_told(template, told):
    """A template that cannot be meant is refused when it is compiled, with the right form."""
    with pytest.raises(TemplateSyntaxError, match=told):
        Template("{% load olposthog %}" + template)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% flag nowhere %}{% endflag %}", "nowhere is None"),
        ("{% flag number %}{% endflag %}", "number is 7"),
        ('{% flag "" %}{% endflag %}', "''"),
        ('{% flag "a" variant=nowhere %}on{% endflag %}', "variant must be text; nowhere is None"),
        ('{% flag "a" variant=True %}on{% endflag %}', "variant must be text; True is True"),
        ("{% flag_variant nowhere %}", "''"),
        ("{% flag_variant number %}", "7"),
        ("{% flag_payload nowhere as details %}", "nowhere is None"),
    ],
)
def test_a_name_that_is_none_is_told(enabled, shown, template, told):
    """A misspelt variable is no flag that is off: it is named, and nothing is evaluated."""
    with pytest.raises(TemplateSyntaxError, match=told):
        shown(template, number=7)
    assert enabled.requests == []


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        (FLAG, "{% flag %}"),
        ('{% flag_variant "a" %}', "{% flag_variant %}"),
        ('{% flag_payload "a" as details %}', "{% flag_payload %}"),
        ("{% posthog_bootstrap %}", "{% posthog_bootstrap %}"),
    ],
)
def test_without_the_request_the_fix_is_named(template, tag):
    """A template that is rendered without a request cannot know whose flags to show."""
    with pytest.raises(ImproperlyConfigured, match=f"{tag} needs the request: .*render"):
        Template("{% load olposthog %}" + template).render(Context())
    with pytest.raises(ImproperlyConfigured, match=tag):
        engines["django"].from_string("{% load olposthog %}" + template).render()


def test_the_request_may_be_a_variable(enabled):
    """A context that is no RequestContext can have the request as a variable."""
    enabled.flags = {"beta": True}
    context = Context({"request": RequestFactory().get("/")})

    assert Template("{% load olposthog %}" + FLAG).render(context) == "on"


def test_another_variable_called_request_does_no_harm(enabled, shown):
    """Where a page is about somebody's request for a quotation, flags are still the visitor's."""
    enabled.flags = {"beta": True}

    assert shown(FLAG + "{{ request }}", request="for tea") == "onfor tea"
