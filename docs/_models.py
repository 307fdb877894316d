"""Render the models' reference: the fields of each class with their types, defaults and meaning.

A page writes `<!-- models: A, B -->` for the classes A and B, `<!-- request models: A, B -->` for classes that users
create, and `<!-- models: others -->` for every public model that the page does not name.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import liveavatar
import yaml
from sphinx.application import Sphinx

import liveavatar_client.models
from liveavatar_client.types import Unset

SPECIFICATION = Path(__file__).parents[1] / "openapi" / "liveavatar.yaml"
PLACE = re.compile(r"<!-- (request )?models: (.+?) -->")
PUBLIC = {name: getattr(liveavatar, name) for name in liveavatar.__all__}
MODELS = {name: it for name, it in PUBLIC.items() if inspect.isclass(it) and (attrs.has(it) or issubclass(it, Enum))}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fill_in(app: Sphinx, document: str, source: list[str]) -> None:
    """Replace each place with the models that it names."""
    named = {name for _, names in PLACE.findall(source[0]) for name in names.split(", ")}
    if not named:
        return
    app.env.note_dependency(str(SPECIFICATION))
    schemas = yaml.safe_load(SPECIFICATION.read_text("utf-8"))["components"]["schemas"]
    others = sorted(MODELS.keys() - named)

    def render(place: re.Match[str]) -> str:
        names = others if place[2] == "others" else place[2].split(", ")
        lines = [line for name in names for line in model(name, schemas, is_request=bool(place[1]))]
        return "\n".join(["```{eval-rst}", *lines, "```"])

    source[0] = PLACE.sub(render, source[0])


def model(name: str, schemas: dict[str, Any], *, is_request: bool) -> Iterator[str]:
    """Render one class as reStructuredText."""
    cls, schema = MODELS[name], schemas.get(name, {})
    yield f".. py:class:: liveavatar.{name}"
    yield ""
    described, fields = split_docstring(cls)
    if issubclass(cls, Enum):
        yield from indented([one_line(schema.get("description", described)), ""])
        for member in dict.fromkeys(cls):
            yield from indented([f".. py:attribute:: {member.name}", f"   :value: {member.value!r}", ""])
        return
    yield from indented([*described.splitlines(), ""])
    hints = type_hints(cls)
    parameters = inspect.signature(cls).parameters
    properties = schema.get("properties", {})
    places = {field: place for place, field in enumerate(properties)}
    for field in sorted(attrs.fields(cls), key=lambda field: places.get(field.name, len(places))):
        if field.name in parameters:
            meaning = fields.get(field.name) or description(properties.get(field.name, {}), schemas)
            default = note_on_default(parameters[field.name]) if is_request else ""
            yield from indented(attribute(field.name, hints[field.name], f"{one_line(meaning)} {default}"))
    for prop, it in inspect.getmembers(cls, lambda it: isinstance(it, property)):
        if described := inspect.getdoc(it):
            yield from indented([f".. py:property:: {prop}", "", *indented(described.splitlines()), ""])


def type_hints(cls: type) -> dict[str, Any]:
    """Return the types of the fields: those that the constructor accepts, where it is written by hand."""
    names = {name: getattr(liveavatar_client.models, name) for name in liveavatar_client.models.__all__}
    names["Unset"] = Unset
    hints = typing.get_type_hints(cls, localns=names)
    if "__attrs_init__" in vars(cls):
        hints |= typing.get_type_hints(cls.__init__, localns=names)
    return hints


def attribute(name: str, hint: Any, meaning: str) -> Iterator[str]:
    """Render one field."""
    members = [member for member in parts(hint) if member is not Unset]
    generated = [member for member in members if is_unexported(member)]
    shown = [member for member in members if member not in generated]
    if not set(shown) - {type(None)}:
        shown = [Mapping[str, Any], *shown]
    links = [f":ref:`{it.__name__} <schema-{it.__name__.lower()}>`" for it in generated]
    suffix = f" See {', '.join(links)}." if links else ""
    yield f".. py:attribute:: {name}"
    yield f"   :type: {' | '.join(map(type_name, shown))}"
    yield ""
    yield f"   {meaning.strip()}{suffix}"
    yield ""


def note_on_default(parameter: inspect.Parameter) -> str:
    """Say whether a field is required, or what its default is."""
    if parameter.default is inspect.Parameter.empty:
        return "**Required.**"
    if isinstance(parameter.default, str | int | float | bool):
        value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
        return f"Default: ``{value!r}``."
    return ""


def description(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return the description of a field, or else that of the schema that it refers to."""
    if "description" in schema:
        return str(schema["description"])
    for choice in (schema, *schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if "$ref" in choice:
            return description(schemas[choice["$ref"].rpartition("/")[2]], schemas)
    return ""


def parts(hint: Any) -> Iterator[Any]:
    """Yield the members of a union, None last."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = typing.get_args(hint)
        yield from (member for member in members if member is not type(None))
        yield from (member for member in members if member is type(None))
    else:
        yield hint


def type_name(hint: Any) -> str:
    """Return how a type is written in the reference."""
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is Mapping:
        return f"dict[{', '.join(map(type_name, typing.get_args(hint)))}]"
    if inspect.isclass(hint) and typing.get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", str(hint))


def is_unexported(hint: Any) -> bool:
    """Return whether this is a generated class that `liveavatar` does not export."""
    return inspect.isclass(hint) and hint.__name__ in liveavatar_client.models.__all__ and hint.__name__ not in MODELS


def split_docstring(cls: type) -> tuple[str, dict[str, str]]:
    """Return a docstring without its fields, and the fields with their descriptions."""
    text, _, rest = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    section, end, after = rest.partition("\n\n")
    fields: dict[str, str] = {}
    for name, meaning in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.M):
        fields[name] = one_line(meaning)
    return f"{text.strip()}\n\n{after.strip() if end else ''}".strip(), fields


def indented(lines: Iterable[str]) -> Iterator[str]:
    """Indent lines by one level of reStructuredText."""
    return (f"   {line}" if line else "" for line in lines)


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())
