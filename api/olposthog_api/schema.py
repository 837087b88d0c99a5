"""How drf-spectacular describes flags. What a plain JSON field becomes would be wrong or vague."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent, force_instance
from rest_framework.settings import api_settings

from olposthog import conf
from olposthog._core.visibility import is_glob, is_internal

from .serializers import SOURCES, PlainSerializer

_operations: WeakKeyDictionary[ComponentRegistry, dict[str, tuple[str, str]]] = WeakKeyDictionary()
"""Path and method by operation id, for each document in the making."""


def _schema_class_of_host() -> type[AutoSchema]:
    hosts: Any = api_settings.DEFAULT_SCHEMA_CLASS
    return hosts if issubclass(hosts, AutoSchema) else AutoSchema


class FlagsSchema(_schema_class_of_host()):  # type: ignore[misc]  # chosen at import, as DRF does
    """The host project's schema class, with operation ids and field names of our own."""

    def get_operation_id(self) -> str:
        """Return an id that no other operation of the document has.

        The first place where the API is mounted has the plain ids; further ones prefix their path.
        """
        ids: Mapping[str, str] = getattr(self.view, "operation_ids", {})
        plain = ids.get(getattr(self.view, "action", self.method.lower()))
        if plain is None:
            return str(super().get_operation_id())
        operations = _operations.setdefault(self.registry, {})
        here = self.path, self.method
        return next(one for one in self._ids(plain) if operations.setdefault(one, here) == here)

    def _ids(self, plain: str) -> Iterator[str]:
        if "drf_format_suffix" in self.path_regex:
            plain += "_formatted"
        yield plain
        words = [word.replace("-", "_") for word in self._tokenize_path()]
        route = plain.partition("_")[0]
        while route in words:
            del words[len(words) - 1 - words[::-1].index(route) :]
        prefixed = "_".join([*words, plain])
        yield prefixed
        yield from (f"{prefixed}_{number}" for number in count(2))

    def resolve_serializer(
        self, serializer: Any, direction: Any, bypass_extensions: bool = False
    ) -> ResolvedComponent:
        """Return the serializer's component. The names in one of ours are fixed."""
        component: ResolvedComponent = super().resolve_serializer(
            serializer, direction, bypass_extensions
        )
        is_ours = isinstance(force_instance(serializer), PlainSerializer)  # type: ignore[no-untyped-call]  # theirs
        if not is_ours or not component or isinstance(component, FixedComponent):
            return component
        fixed = FixedComponent(  # type: ignore[no-untyped-call]  # theirs
            component.name, component.type, component.schema, component.object
        )
        del self.registry[component]
        self.registry.register(fixed)
        return fixed


class FixedComponent(ResolvedComponent):
    """A component whose schema postprocessing hooks cannot change in place.

    drf-spectacular's hook for djangorestframework-camel-case renames the properties of every
    component in the registry. Our answers do not pass the host's renderers.
    """

    @property
    def schema(self) -> dict[str, Any]:
        """Return a copy."""
        return deepcopy(self._schema)

    @schema.setter
    def schema(self, schema: dict[str, Any]) -> None:
        self._schema = schema


_FLAG = {"oneOf": [{"type": "boolean"}, {"type": "string"}]}


def _named_flags() -> list[str]:
    """Return the plain keys of `POSTHOG_API_FLAGS`, which a generated client shall know."""
    return sorted(
        key for key in conf.current().browser_flags if not is_glob(key) and not is_internal(key)
    )


class FlagsFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`features`: named properties where the site names its flags.

    There are no others where `POSTHOG_API_FLAGS` has no globs: a generated client then knows all.
    """

    target_class = "olposthog_api.serializers.FlagsField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the values by key."""
        named = {key: dict(_FLAG) for key in _named_flags()}
        is_closed = named and not any(map(is_glob, conf.current().browser_flags))
        others: Any = False if is_closed else _FLAG
        schema: dict[str, Any] = {"type": "object", "additionalProperties": others}
        return {"type": "object", "properties": named, **schema} if named else schema


class PayloadsFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`payloads`: any JSON values by key."""

    target_class = "olposthog_api.serializers.PayloadsField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the payloads by key."""
        return {"type": "object", "additionalProperties": {}}


class PayloadFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`payload`: any JSON value, also null."""

    target_class = "olposthog_api.serializers.PayloadField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema that lets everything pass."""
        return {}


class SourceFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # theirs
    """`source`: one of a few words, each with what it means."""

    target_class = "olposthog_api.serializers.SourceField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the schema of the sources."""
        meanings = "\n".join(f"* `{source}`: {meaning}" for source, meaning in SOURCES.items())
        description = f"Where the values come from.\n\n{meanings}"
        return enum_component(auto_schema, "FeatureFlagSource", tuple(SOURCES), description)


def enum_component(
    auto_schema: AutoSchema, name: str, words: Sequence[str], description: str
) -> dict[str, Any]:
    """Return a reference to a component for a few words.

    An `enum` in place would become a component too, named after the field. drf-spectacular then
    warns if the host has choices under the same name.
    """
    schema = {"type": "string", "enum": list(words), "description": description}
    component = ResolvedComponent(  # type: ignore[no-untyped-call]  # theirs
        name, ResolvedComponent.SCHEMA, schema, object=name
    )
    auto_schema.registry.register_on_missing(component)
    reference: dict[str, Any] = component.ref
    return reference
