"""Compare the project's contract with the service's own OpenAPI document.

    python scripts/upstream.py [SPEC]

SPEC is a file or a URL, in JSON or YAML; the default is the document that the service's reference is made from.
Only the operations of the contract are compared. Each difference has one of five verdicts:

    missing     the service publishes it, and the contract does not have it
    only here   the contract has it, and the service does not publish it
    changed     both have it, with another type, format, default or status
    stricter    the contract allows less than the service
    looser      the contract allows more than the service

Deliberate differences are listed in openapi/differences.yaml, each with its reason. The exit status is 0 when every
difference is listed and every entry of the list still applies, 1 when not, and 2 when an input cannot be read.
"""

from __future__ import annotations

import argparse
import operator
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

ROOT = Path(__file__).parents[1]
CONTRACT = ROOT / "openapi" / "liveavatar.yaml"
DIFFERENCES = ROOT / "openapi" / "differences.yaml"
PUBLISHED = "https://docs.liveavatar.com/openapi.json"

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
LOWER_LIMITS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER_LIMITS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
DOWNLOAD_SECONDS = 30
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnusableInputError(Exception):
    """A document or the list of differences cannot be used; the message says why."""


class Difference(NamedTuple):
    """One difference between the contract and the published document.

    Attributes:
        where: operation, part and field, such as "POST /v1/sessions/token request avatar_id".
        verdict: one of the five verdicts.
        detail: what differs, with the values of both sides.
    """

    where: str
    verdict: str
    detail: str


class Expected(NamedTuple):
    """One entry of the list of deliberate differences; an asterisk stands for any text."""

    where: str
    difference: str
    reason: str

    def matches(self, difference: Difference) -> bool:
        """Return whether the entry describes the difference."""
        texts = ((self.where, difference.where), (self.difference, f"{difference.verdict}: {difference.detail}"))
        return all(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text) for pattern, text in texts)


@dataclass
class Field:
    """What a document says about one field, over all branches of a union."""

    types: set[str] = field(default_factory=set)
    formats: set[str] = field(default_factory=set)
    values: set[str] | None = None
    defaults: set[str] = field(default_factory=set)
    limits: dict[str, float] = field(default_factory=dict)
    nullable: bool = False
    required: bool = False
    deprecated: bool = False

    def merge(self, other: Field) -> None:
        """Add another branch: what one of the two allows is allowed."""
        self.types |= other.types
        self.formats |= other.formats
        self.defaults |= other.defaults
        self.values = None if self.values is None or other.values is None else self.values | other.values
        self.nullable |= other.nullable
        self.required &= other.required
        self.deprecated &= other.deprecated
        common = self.limits.keys() & other.limits.keys()
        wider = {name: min if name in LOWER_LIMITS else max for name in common}
        self.limits = {name: wider[name](self.limits[name], other.limits[name]) for name in common}


class Document:
    """An OpenAPI document that can be read as flat tables of fields."""

    def __init__(self, content: Any, source: str) -> None:
        if not isinstance(content, Mapping) or not str(content.get("openapi", "")).startswith("3."):
            raise UnusableInputError(f"{source} is not an OpenAPI 3 document: it has no 'openapi: 3.x'")
        if not isinstance(content.get("paths"), Mapping):
            raise UnusableInputError(f"{source} is not an OpenAPI 3 document: it has no 'paths'")
        self._content = content
        self._source = source
        self._formats = {pattern: name for name, pattern in content.get("x-patterns", {}).items()}

    def operations(self) -> dict[str, Mapping[str, Any]]:
        """Return the operations by name, such as "POST /v1/sessions/token"."""
        found: dict[str, Mapping[str, Any]] = {}
        for path, item in self._content["paths"].items():
            resolved = self._resolve(item)
            for method in METHODS:
                if method in resolved:
                    parameters = [*resolved.get("parameters", []), *resolved[method].get("parameters", [])]
                    found[f"{method.upper()} {path}"] = {**resolved[method], "parameters": parameters}
        return found

    def credentials(self, operation: Mapping[str, Any]) -> set[str]:
        """Return the credentials that an operation accepts, by the name of their header or scheme."""
        requirements = operation.get("security", self._content.get("security", []))
        return {" and ".join(sorted(map(self._credential, each))) for each in requirements}

    def statuses(self, operation: Mapping[str, Any]) -> set[str]:
        """Return the exact statuses of success."""
        return {str(status) for status in operation.get("responses", {}) if re.fullmatch(r"2\d\d", str(status))}

    def fields(self, operation: Mapping[str, Any], statuses: Set[str]) -> dict[str, Field]:
        """Return the fields of an operation's parameters, request body and responses of ``statuses``, by place."""
        found: dict[str, Field] = {}
        for parameter in map(self._resolve, operation["parameters"]):
            part = self._flatten(parameter.get("schema", {}), f"{parameter['in']} {parameter['name']}")
            next(iter(part.values())).required = bool(parameter.get("required"))
            found |= part
        if "requestBody" in operation:
            body = self._resolve(operation["requestBody"])
            part = self._flatten(_json_schema(body), "request", root=True)
            part["request"].required = bool(body.get("required"))
            found |= part
        for status, response in operation.get("responses", {}).items():
            schema = _json_schema(self._resolve(response)) if str(status) in statuses else None
            if schema is not None:
                found |= self._flatten(schema, f"response {status}", root=True)
        return found

    def _credential(self, name: str) -> str:
        scheme = self._resolve(self._content.get("components", {}).get("securitySchemes", {}).get(name, {}))
        return (
            str(scheme["name"]).upper() if scheme.get("type") == "apiKey" else str(scheme.get("scheme", name)).lower()
        )

    def _flatten(
        self, schema: Any, path: str, *, root: bool = False, above: frozenset[str] = frozenset()
    ) -> dict[str, Field]:
        """Return a schema's own field and those within it.

        The branches of a union at the root of a body are merged into one object. Those of a union further down are
        kept apart where a constant tells them apart: ``voice_settings<fish>.speed``.
        """
        branches = list(self._branches(schema, above))
        labels = [None if root else _label(branch) for branch, _ in branches]
        found: dict[str, Field] = {}
        for (branch, references), label in zip(branches, labels, strict=True):
            at = f"{path}<{label or 'other'}>" if any(labels) and len(branches) > 1 else path
            inside = {path: self._field(branch)}
            for name, value in branch.get("properties", {}).items():
                part = self._flatten(value, f"{at}{' ' if root else '.'}{name}", above=references)
                next(iter(part.values())).required = name in branch.get("required", ())
                inside |= part
            for keyword, suffix in (("items", "[]"), ("additionalProperties", "{}")):
                if isinstance(branch.get(keyword), Mapping):
                    inside |= self._flatten(branch[keyword], f"{at}{suffix}", above=references)
            _merge(found, inside)
        return found or {path: Field(nullable=True)}

    def _branches(self, schema: Any, above: frozenset[str]) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
        """Yield the alternatives of a schema without references and unions; null is a mark on the others."""
        references = set(_references(schema))
        schema = self._resolve(schema)
        if above & references:  # a schema that contains itself has been described further up
            yield {name: schema[name] for name in schema if name == "type"}, above
            return
        above |= references
        for part in schema.get("allOf", ()):
            schema = _united(self._resolve(part), schema)
        alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        outer = {name: value for name, value in schema.items() if name not in ("anyOf", "oneOf", "allOf")}
        branches = []
        for alternative in alternatives:
            branches += [(_united(branch, outer), seen) for branch, seen in self._branches(alternative, above)]
        if not alternatives:
            yield outer, above
        nothing = [branch.get("type") == "null" for branch, _ in branches]
        for (branch, seen), null in zip(branches, nothing, strict=True):
            if not null or all(nothing):
                yield ({**branch, "nullable": True} if any(nothing) else branch), seen

    def _field(self, schema: Mapping[str, Any]) -> Field:
        declared = schema.get("type", [])
        types = {declared} if isinstance(declared, str) else set(declared)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if not types and values and all(isinstance(value, str) for value in values):
            types = {"string"}
        pattern = schema.get("pattern")
        formats = {self._formats.get(pattern, f"pattern {pattern}")} if pattern else set()
        if pattern and re.fullmatch(r"\^\([\w|]+\)\$", pattern):  # a closed list of words in another notation
            values, formats = pattern[2:-2].split("|"), set()
        if "format" in schema and "string" in types and schema["format"] != "password":
            formats = {schema["format"]}
        return Field(
            types=types - {"null"},
            formats=formats,
            values=None if values is None else {_text(value) for value in values if value is not None},
            defaults={_text(schema["default"])} if "default" in schema else set(),
            limits={name: schema[name] for name in (*LOWER_LIMITS, *UPPER_LIMITS) if name in schema},
            nullable="null" in types or bool(schema.get("nullable")),
            deprecated=bool(schema.get("deprecated")),
        )

    def _resolve(self, node: Any) -> Mapping[str, Any]:
        """Follow a reference; what stands beside it is added to what it refers to."""
        seen: list[str] = []
        while reference := next(iter(_references(node)), None):
            if reference in seen:
                raise UnusableInputError(f"{self._source}: the reference {reference!r} leads to itself")
            seen.append(reference)
            beside = {name: node[name] for name in node if name != "$ref"}
            node = {**self._target(reference), **beside}
        return node if isinstance(node, Mapping) else {}

    def _target(self, reference: str) -> Mapping[str, Any]:
        if not reference.startswith("#/"):
            raise UnusableInputError(f"{self._source}: the reference {reference!r} leads out of the document")
        target: Any = self._content
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            raise UnusableInputError(f"{self._source}: the reference {reference!r} leads nowhere")
        return target


def compare(contract: Document, published: Document) -> list[Difference]:
    """Return the differences between the contract's operations and the published ones."""
    found = []
    theirs = published.operations()
    for name, operation in contract.operations().items():
        if name not in theirs:
            found.append(Difference(name, "only here", "the operation"))
            continue
        sides = ((contract, operation), (published, theirs[name]))
        here, there = (document.credentials(each) for document, each in sides)
        found += _sets(f"{name} credentials", here, there)
        here, there = (document.statuses(each) for document, each in sides)
        if here != there:
            found.append(Difference(f"{name} status", "changed", f"{_listed(there)} there, {_listed(here)} here"))
        statuses = set(map(str, theirs[name].get("responses", {})))  # the service publishes few of those it sends
        ours, published_fields = (document.fields(each, statuses) for document, each in sides)
        found += _fields(name, ours, published_fields)
    return found


def _fields(operation: str, ours: Mapping[str, Field], theirs: Mapping[str, Field]) -> Iterator[Difference]:
    for place in sorted({*ours, *theirs}):
        where = f"{operation} {place}"
        if place in ours and place in theirs:
            yield from _field(where, ours[place], theirs[place])
        elif place in theirs and not _within_another(place, theirs.keys() - ours.keys()):
            yield Difference(where, "missing", _described(theirs[place]))
        elif place in ours and not _within_another(place, ours.keys() - theirs.keys()):
            yield Difference(where, "only here", _described(ours[place]))


def _within_another(place: str, places: Set[str]) -> bool:
    """Return whether a field lies within another one of ``places``: of a missing object, only the object is named."""
    return any(place.startswith(tuple(f"{other}{mark}" for mark in " .[{<")) for other in places)


def _field(where: str, here: Field, there: Field) -> Iterator[Difference]:
    for name in ("types", "formats", "defaults"):
        ours, theirs = getattr(here, name), getattr(there, name)
        if ours != theirs:
            yield Difference(where, "changed", f"{name[:-1]} {_listed(theirs)} there, {_listed(ours)} here")
    for name in ("required", "deprecated"):
        ours, theirs = getattr(here, name), getattr(there, name)
        if ours != theirs:
            verdict = "changed" if name == "deprecated" else "stricter" if ours else "looser"
            yield Difference(where, verdict, f"{name} only {'here' if ours else 'there'}")
    if here.nullable != there.nullable:
        side = "here" if here.nullable else "there"
        yield Difference(where, "looser" if here.nullable else "stricter", f"null allowed only {side}")
    if here.values is not None and there.values is not None:
        yield from _sets(where, here.values, there.values)
    elif here.values != there.values:
        verdict = "looser" if here.values is None else "stricter"
        side, values = ("there", there.values) if here.values is None else ("here", here.values)
        yield Difference(where, verdict, f"only {_listed(values or set())} {side}")
    for limits, narrower in ((LOWER_LIMITS, operator.gt), (UPPER_LIMITS, operator.lt)):
        for name in limits:
            limit, published = here.limits.get(name), there.limits.get(name)
            if limit != published:
                stricter = published is None or (limit is not None and narrower(limit, published))
                detail = f"{name} {_number(published)} there, {_number(limit)} here"
                yield Difference(where, "stricter" if stricter else "looser", detail)


def _sets(where: str, here: set[str], there: set[str]) -> Iterator[Difference]:
    for value in sorted(there - here):
        yield Difference(where, "stricter", f"{value} allowed only there")
    for value in sorted(here - there):
        yield Difference(where, "looser", f"{value} allowed only here")


def _merge(found: dict[str, Field], more: dict[str, Field]) -> None:
    """Add the fields of one more branch of a union; a field that a branch lacks is not required."""
    first, lacking = not found, found.keys() ^ more.keys()
    for place in {**found, **more}:
        if place in found and place in more:
            found[place].merge(more[place])
        else:
            found[place] = more.get(place) or found[place]
            if not first and not _within_another(place, lacking):
                found[place].required = False


def _json_schema(holder: Mapping[str, Any]) -> Any:
    contents = holder.get("content", {})
    return next((content.get("schema", {}) for kind, content in contents.items() if "json" in kind), None)


def _references(node: Any) -> list[str]:
    return [str(node["$ref"])] if isinstance(node, Mapping) and "$ref" in node else []


def _united(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return one schema that says what both say; where they disagree, the outer one decides."""
    properties = {**inner.get("properties", {}), **outer.get("properties", {})}
    required = [*inner.get("required", ()), *outer.get("required", ())]
    united = {**inner, **outer}
    return united | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})


def _label(branch: Mapping[str, Any]) -> str | None:
    constants = (value.get("const") for value in branch.get("properties", {}).values() if isinstance(value, Mapping))
    return next((str(constant) for constant in constants if constant is not None), None)


def _described(shown: Field) -> str:
    return ", ".join(filter(None, [_listed(shown.types), *shown.formats, "required" if shown.required else ""]))


def _listed(values: set[str]) -> str:
    return " or ".join(sorted(values)) if 0 < len(values) <= 6 else f"{len(values)} values" if values else "none"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def read(source: str) -> Any:
    """Return the content of a file or URL in JSON or YAML.

    Raises:
        UnusableInputError: there is no such file, the server does not send it, or it is neither JSON nor YAML.
    """
    try:
        if re.match(r"https?://", source):
            response = httpx.get(source, timeout=DOWNLOAD_SECONDS, follow_redirects=True)
            response.raise_for_status()
            text = response.text
        else:
            text = Path(source).read_text(encoding="utf-8")
        return yaml.load(text, Loader=SAFE_LOADER)
    except httpx.HTTPStatusError as refused:
        raise UnusableInputError(f"{source}: the server responded {refused.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as failed:
        raise UnusableInputError(f"cannot download {source}: {failed}; SPEC=FILE compares with a file") from None
    except OSError as failed:
        raise UnusableInputError(f"cannot read {source}: {failed.strerror}") from None
    except UnicodeDecodeError:
        raise UnusableInputError(f"{source} is not UTF-8 text") from None
    except yaml.YAMLError as failed:
        line = getattr(getattr(failed, "problem_mark", None), "line", 0) + 1
        raise UnusableInputError(f"{source} is neither JSON nor YAML: line {line}") from None


def expected(source: str) -> list[Expected]:
    """Return the list of deliberate differences.

    Raises:
        UnusableInputError: the list cannot be read, or an entry lacks one of its three texts.
    """
    entries = read(source) or []
    if not isinstance(entries, list):
        raise UnusableInputError(f"{source} is not a list")
    for number, entry in enumerate(entries, 1):
        texts = entry.values() if isinstance(entry, Mapping) else ()
        if not isinstance(entry, Mapping) or set(entry) != {*Expected._fields} or not all(map(_is_text, texts)):
            raise UnusableInputError(f"{source}, entry {number}: needs where, difference and reason, each a text")
    return [Expected(**entry) for entry in entries]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def report(differences: Sequence[Difference], entries: Sequence[Expected]) -> tuple[str, bool]:
    """Return the text to print, and whether nothing is left to do."""
    reasons = {each: next((entry.reason for entry in entries if entry.matches(each)), None) for each in differences}
    unlisted = [each for each in differences if reasons[each] is None]
    stale = [entry for entry in entries if not any(map(entry.matches, differences))]
    ordered = [*(each for each in differences if reasons[each] is not None), *unlisted]
    rows = [(each.verdict, each.where, each.detail, reasons[each] or "NOT LISTED") for each in ordered]
    widths = [max(len(row[column]) for row in [("",) * 4, *rows]) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    lines += [f"STALE: no difference matches {entry.where!r}, {entry.difference!r}" for entry in stale]
    lines.append(f"{len(differences)} differences: {len(unlisted)} not listed; {len(stale)} stale entries in the list")
    return "\n".join(lines), not unlisted and not stale


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the table and return the exit status."""
    summary, _, details = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="upstream.py", description=summary, epilog=details, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("spec", nargs="?", default=PUBLISHED, help=f"the published document (default: {PUBLISHED})")
    parser.add_argument("--contract", default=str(CONTRACT), help="the contract (default: openapi/liveavatar.yaml)")
    parser.add_argument("--list", default=str(DIFFERENCES), help="deliberate differences (openapi/differences.yaml)")
    options = parser.parse_args(arguments)
    try:
        documents = [Document(read(source), source) for source in (options.contract, options.spec)]
        differences = compare(*documents)
        entries = expected(options.list)
    except UnusableInputError as unusable:
        print(f"upstream.py: {unusable}", file=sys.stderr)
        return 2
    others = len(documents[1].operations().keys() - documents[0].operations().keys())
    text, clean = report(differences, entries)
    print(f"{options.spec}: {others} other operations are not part of the contract\n{text}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
