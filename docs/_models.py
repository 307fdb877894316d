"""Render the models' reference: the fields of each class with their types, defaults and meaning.

A page writes `<!-- models: A, B -->` for the classes A and B, and `<!-- models: others -->` for every public model
that the page does not name.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator
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
PLACE = re.compile(r"<!-- models: (.+?) -->")
PUBLIC = {name: getattr(liveavatar, name) for name in liveavatar.__all__}
MODELS = {name: it for name, it in PUBLIC.items() if inspect.isclass(it) and (attrs.has(it) or issubclass(it, Enum))}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fill_in(app: Sphinx, document: str, source: list[str]) -> None:
    """Replace each place with the models that it names."""
    named = {name for place in PLACE.findall(source[0]) for name in place.split(", ")}
    if not named:
        return
    app.env.note_dependency(str(SPECIFICATION))
    schemas = yaml.safe_load(SPECIFICATION.read_text("utf-8"))["components"]["schemas"]
    others = sorted(MODELS.keys() - named)

    def render(place: re.Match[str]) -> str:
        names = others if place[1] == "others" else place[1].split(", ")
        lines = [line for name in names for line in model(name, schemas)]
        return "\n".join(["```{eval-rst}", *lines, "```"])

    source[0] = PLACE.sub(render, source[0])


def model(name: str, schemas: dict[str, Any]) -> Iterator[str]:
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
    hints = typing.get_type_hints(cls, localns=vars(liveavatar_client.models) | {"Unset": Unset})
    properties = schema.get("properties", {})
    places = {field: place for place, field in enumerate(properties)}
    for field in sorted(attrs.fields(cls), key=lambda field: places.get(field.name, len(places))):
        if field.init:
            meaning = fields.get(field.name) or description(properties.get(field.name, {}), schemas)
            yield from indented(attribute(field, hints[field.name], one_line(meaning)))
    for prop, it in inspect.getmembers(cls, lambda it: isinstance(it, property)):
        if described := inspect.getdoc(it):
            yield from indented([f".. py:property:: {prop}", "", *indented(described.splitlines()), ""])


def attribute(field: attrs.Attribute[Any], hint: Any, meaning: str) -> Iterator[str]:
    """Render one field."""
    members = [part for part in parts(hint) if part is not Unset]
    yield f".. py:attribute:: {field.name}"
    yield f"   :type: {' | '.join(dict.fromkeys(map(type_name, members)))}"
    yield ""
    notes = [meaning]
    if field.default is attrs.NOTHING:
        notes.append("**Required.**")
    elif isinstance(field.default, str | int | float | bool) and not isinstance(field.default, Enum):
        notes.append(f"Default: ``{field.default!r}``.")
    if links := [f":ref:`{it.__name__} <schema-{it.__name__.lower()}>`" for it in members if is_unexported(it)]:
        notes.append(f"See {' or '.join(links)}.")
    yield f"   {' '.join(filter(None, notes))}"
    yield ""


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
    if is_unexported(hint):
        return "str" if issubclass(hint, Enum) else "dict[str, Any]"
    if inspect.isclass(hint) and typing.get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", str(hint))


def is_unexported(hint: Any) -> bool:
    """Return True for a generated class that users give as a dict, or as text."""
    return inspect.isclass(hint) and hint.__name__ in vars(liveavatar_client.models) and hint.__name__ not in MODELS


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
