"""Parts of pages that are generated, and links that Sphinx does not find by itself.

A page has `<!-- contract -->` or `<!-- commands -->` where the part goes.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import yaml
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[1]
CONTRACT = ROOT / "openapi" / "liveavatar.yaml"
COLON = "\ue000"  # a character for private use
UUID = "^[0-9a-fA-F]{8}-"


def setup(app: Sphinx) -> dict[str, Any]:
    """Set up the extension. Sphinx calls this."""
    app.add_role_to_domain("py", "name", Name())
    app.connect("autodoc-process-docstring", hide_colon, priority=100)  # before Napoleon's turn
    app.connect("autodoc-process-docstring", show_colon, priority=900)
    app.connect("autodoc-process-docstring", point_to_contract)
    app.connect("autodoc-process-signature", shorten)
    app.connect("source-read", fill_in)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Name(PyXRefRole):
    """A name in single backticks in a docstring: a link if the name is documented, else code."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Take the name as it is. A leading dot does not ask for a search."""
        return super().process_link(env, refnode, True, title, target)


def fill_in(app: Sphinx, document: str, source: list[str]) -> None:
    """Put the generated parts in their places."""
    if "<!-- contract -->" in source[0]:
        app.env.note_dependency(str(CONTRACT))
        spec = yaml.safe_load(CONTRACT.read_text("utf-8"))
        source[0] = source[0].replace("<!-- contract -->", "\n".join(contract(spec)))
    if "<!-- commands -->" in source[0]:
        source[0] = source[0].replace("<!-- commands -->", "\n".join(commands()))


def shorten(app: Sphinx, kind: str, name: str, it: Any, options: Any, given: str, returned: str) -> Any:
    """Shorten a signature: a model's fields with plain defaults, and the type of a context manager."""
    if returned and kind in ("function", "method") and hasattr(it, "__wrapped__"):
        return given, returned.replace("AsyncIterator[", "AbstractAsyncContextManager[").replace(
            "Iterator[", "AbstractContextManager["
        )
    if kind != "class" or not (attrs.has(it) or dataclasses.is_dataclass(it)):
        return None
    missing = (attrs.NOTHING, dataclasses.MISSING)
    parts = ["*"] if dataclasses.is_dataclass(it) else []
    for field in attrs.fields(it) if attrs.has(it) else dataclasses.fields(it):
        if field.init:
            plain = field.default is None or (
                isinstance(field.default, str | int | float | bool) and not isinstance(field.default, Enum)
            )
            default = repr(field.default) if plain else "…"
            parts.append(field.name if field.default in missing else f"{field.name}={default}")
    return f"({', '.join(parts)})", None


def hide_colon(app: Sphinx, kind: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Keep Napoleon from taking the text before a colon for the type of an attribute."""
    if kind in ("attribute", "property", "data"):
        lines[:] = [line.replace(":", COLON) for line in lines]


def show_colon(app: Sphinx, kind: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Undo hide_colon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def point_to_contract(app: Sphinx, kind: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Link a model to its fields in the contract, and describe an enum."""
    schema = name.rpartition(".")[2]
    if kind == "class" and schema in _schemas():
        if issubclass(it, Enum):
            lines[:] = [_schemas()[schema]["description"], ""]
        else:
            lines += ["", f"Types and limits of the fields: :ref:`in the contract <schema-{schema.lower()}>`."]


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> nodes.Node | None:
    """Find a public name under which an object is documented. Leave the names of other projects as they are."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"]).removesuffix("()")
    name = target.rpartition(".")[2]
    if target.split(".")[0] in ("liveavatar", "liveavatar_client", "generated") or name == target:
        for home in ("liveavatar", "liveavatar.mock", "liveavatar.testing"):
            found = env.domains["py"].objects.get(f"{home}.{name}")
            if found:
                return env.domains["py"].resolve_xref(
                    env, node["refdoc"], app.builder, "obj", f"{home}.{name}", node, shown
                )
    if node["reftype"] == "name" or not target.startswith("liveavatar"):
        return shown
    return None


@cache
def _schemas() -> dict[str, Any]:
    return dict(yaml.safe_load(CONTRACT.read_text("utf-8"))["components"]["schemas"])


# ---- The contract ---------------------------------------------------------------------------------------------------


def contract(spec: dict[str, Any]) -> Iterator[str]:
    """Yield the contract as a page of Markdown."""
    operations = [
        (path, method, operation) for path, methods in spec["paths"].items() for method, operation in methods.items()
    ]
    shared = set.intersection(*({(s, r["$ref"]) for s, r in o["responses"].items()} for _, _, o in operations))
    yield spec["info"]["description"]
    yield "\n## Credentials\n"
    for scheme in spec["components"]["securitySchemes"].values():
        yield f"T{_credential(scheme)[1:]}\n: {_one_line(scheme['description'])}\n"
    yield "## Operations\n"
    for path, method, operation in operations:
        yield from _operation(spec, path, method, operation, shared)
    yield "## Error responses\n\nThey are the same for every operation.\n"
    for status, reference in sorted(shared):
        yield from _response(spec, status, reference)
    yield "## Schemas\n"
    for name, schema in spec["components"]["schemas"].items():
        yield from _schema(spec, name, schema)


def _operation(spec: dict[str, Any], path: str, method: str, operation: dict[str, Any], shared: set) -> Iterator[str]:
    yield f"(operation-{operation['operationId']})=\n### {operation['summary']}\n"
    yield f"```text\n{method.upper()} {path}\n```\n"
    yield operation["description"] + "\n"
    schemes = spec["components"]["securitySchemes"]
    credentials = [_credential(schemes[name]) for way in operation["security"] for name in way]
    yield f"**Credential**: {', or '.join(credentials)}\n"
    for parameter in (_resolved(spec, each) for each in operation.get("parameters", ())):
        yield _parameter(parameter)
    if body := operation.get("requestBody"):
        yield f"**Body**, {'required' if body['required'] else 'optional'}: {_content(body)}\n"
        yield from _examples(spec, body)
    else:
        yield "**Body**: none\n"
    for status, response in operation["responses"].items():
        if (status, response["$ref"]) not in shared and not status.endswith("XX"):
            yield from _response(spec, status, response["$ref"], headers=False)
    yield f"[The service's own page]({operation['externalDocs']['url']})\n"


def _parameter(parameter: dict[str, Any]) -> str:
    facts = [f"in the {parameter['in']}", _type(parameter["schema"])]
    if parameter.get("required"):
        facts.append("**required**")
    if "default" in parameter["schema"]:
        facts.append(f"default `{parameter['schema']['default']}`")
    return f"`{parameter['name']}`, {', '.join(facts)}\n: {_one_line(parameter['description'])}\n"


def _response(spec: dict[str, Any], status: str, reference: str, *, headers: bool = True) -> Iterator[str]:
    response = _at(spec, reference)
    others = " and any other" if status.endswith("XX") else ""
    yield f"**{status.replace('XX', 'xx')}**{others}: {_one_line(response['description'])}\n{_content(response)}\n"
    for name, header in response.get("headers", {}).items() if headers else ():
        described = _at(spec, header["$ref"])
        yield f"`{name}`, {_type(described['schema'])}\n: {_one_line(described['description'])}\n"
    yield from _examples(spec, response)


def _content(holder: dict[str, Any]) -> str:
    kinds = (f"{_type(media['schema'])} (`{kind}`)" for kind, media in holder["content"].items())
    return ", or ".join(kinds)


def _examples(spec: dict[str, Any], holder: dict[str, Any]) -> Iterator[str]:
    for kind, media in holder["content"].items():
        for example in (_at(spec, example["$ref"]) for example in media.get("examples", {}).values()):
            yield _folded(example["summary"], "json", json.dumps(example["value"], indent=2))
        if "example" in media:
            yield _folded(kind, "html" if kind == "text/html" else "text", media["example"])


def _folded(summary: str, language: str, text: str) -> str:
    return f"<details><summary>Example: {summary}</summary>\n\n```{language}\n{text}\n```\n\n</details>\n"


def _schema(spec: dict[str, Any], name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"(schema-{name.lower()})=\n### {name}\n"
    yield f"{_one_line(schema.get('description', ''))}\n"
    if schema.get("type") != "object":
        words = _type(schema)
        yield f"{words[0].upper()}{words[1:]}\n"
        return
    if rule := schema.get("then", {}).get("description"):
        yield f"{rule}\n"
    if limits := _limits(schema):
        yield f"Limits: {limits}.\n"
    if isinstance(more := schema.get("additionalProperties"), dict):
        yield f"Any name\n: {_type(more)}\n"
    for field, described in schema.get("properties", {}).items():
        facts = [_type(described)]
        if field in schema.get("required", ()):
            facts.append("**required**")
        if "default" in described:
            facts.append(f"default `{json.dumps(described['default']).strip(chr(34))}`")
        text = described.get("description") or _at(spec, _reference(described))["description"]
        yield f"`{field}`: {', '.join(facts)}\n: {_one_line(text)}\n"


def _type(schema: dict[str, Any]) -> str:
    """Return a schema in words, with links to named schemas."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#schema-{name.lower()})"
    for choice in ("oneOf", "anyOf", "allOf"):
        if choice in schema:
            return " or ".join(_type(part) for part in schema[choice])
    if "const" in schema:
        return f"always `{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    words = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if kinds == "array":
        words = f"array of ({_type(schema['items'])})"
    return ", ".join(filter(None, [words, _limits(schema)]))


def _limits(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    found = []
    if low is not None and high is not None:
        found.append(f"{low} to {high}")
    elif low is not None:
        found.append(f"at least {low}")
    elif high is not None:
        found.append(f"at most {high}")
    pattern = schema.get("pattern", "")
    if pattern.startswith(UUID):
        found.append("a UUID")
    elif pattern:
        found.append("one of " + ", ".join(f"`{value}`" for value in pattern.strip("^()$").split("|")))
    if schema.get("format") == "password":
        found.append("secret")
    elif "format" in schema:
        found.append(schema["format"].upper())
    if "maxLength" in schema:
        found.append(f"at most {schema['maxLength']} characters")
    if "maxProperties" in schema:
        found.append(f"at most {schema['maxProperties']} entries")
    if "propertyNames" in schema:
        found.append(f"names of at most {schema['propertyNames']['maxLength']} characters")
    if "not" in schema:
        found.append("none of " + ", ".join(f"`{value}`" for value in schema["not"]["enum"]))
    return ", ".join(found)


def _credential(scheme: dict[str, Any]) -> str:
    if scheme["type"] == "apiKey":
        return f"the API key, in the header `{scheme['name']}`"
    return "the session token, in the header `Authorization: Bearer`"


def _resolved(spec: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return _at(spec, node["$ref"]) if "$ref" in node else node


def _at(spec: dict[str, Any], reference: str) -> dict[str, Any]:
    found: Any = spec
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _reference(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref") or schema["allOf"][0]["$ref"])


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ---- The command line -----------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Yield the commands and their options, as the program itself has them."""
    import click
    from liveavatar.cli._app import app

    for name, command in app.commands.items():
        yield f"### liveavatar {name}\n"
        if name == "mock":
            yield f"{inspect.cleandoc(command.help)}\n\n```text\n{_mock_help()}```\n"
            continue
        context = click.Context(command, show_default=True)
        yield f"```text\nliveavatar {name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
        yield f"{_with_flags(inspect.cleandoc(command.help))}\n"
        options = (parameter for parameter in command.params if isinstance(parameter, click.Option))
        for option in options:
            if record := option.get_help_record(context):
                yield f"`{record[0]}`\n: {_with_flags(record[1])}\n"


def _mock_help() -> str:
    from liveavatar.mock.__main__ import _parser

    os.environ["COLUMNS"] = "80"  # argparse wraps at the width of the terminal
    return _parser("liveavatar mock").format_help()


def _with_flags(text: str) -> str:
    """Mark flags as code, unless they are code already."""
    return re.sub(r"`[^`]*`|(?<![\w-])--[a-z-]+", lambda found: f"`{found[0].strip('`')}`", text)
