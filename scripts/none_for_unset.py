"""A part of finish_client.py: in responses, a missing field is None."""

import ast
from typing import Any


def response_models(contract: dict[str, Any]) -> set[str]:
    """Return the names of the schemas that only responses contain."""

    def reachable(node: Any, found: set[str]) -> set[str]:
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                kind = node["$ref"].split("/")[2]
                reachable(contract["components"][kind][name], found)
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            reachable(child, found)
        return found

    operations = [
        each for path in contract.get("paths", {}).values() for each in path.values() if isinstance(each, dict)
    ]
    requests = reachable([each.get("requestBody") for each in operations], set())
    return reachable([each.get("responses") for each in operations], set()) - requests


class NoneForUnset(ast.NodeTransformer):
    """Puts None in the place of UNSET, in code of the generator."""

    def __init__(self, nullable: set[str]) -> None:
        self.nullable = nullable
        """The fields that may be null: `to_dict` contains them, whether the response did or not."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(None) if node.id in ("UNSET", "Unset") else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """`int | None | Unset` becomes `int | None`."""
        self.generic_visit(node)
        twice = isinstance(node.right, ast.Constant) and any(
            isinstance(part, ast.Constant) for part in ast.walk(node.left)
        )
        return node.left if twice else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`isinstance(value, Unset)` becomes `value is None`."""
        if ast.unparse(node.func) == "isinstance" and ast.unparse(node.args[1]) == "Unset":
            return ast.Compare(node.args[0], [ast.Is()], [ast.Constant(None)])
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Leave out what only concerns UNSET."""
        test, last = ast.unparse(node.test), node.orelse
        while last and isinstance(last[0], ast.If):
            last = last[0].orelse
        is_copied = bool(last) and isinstance(last[0], ast.Assign) and isinstance(last[0].value, ast.Attribute)
        if test.endswith(", Unset)") and test.startswith("isinstance(") and is_copied:
            return [self.visit(each) for each in node.orelse]
        if test.removesuffix(" is not UNSET") in self.nullable:
            return node.body
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave out a statement that now repeats the one before it."""
        self.generic_visit(node)
        pairs = zip([None, *node.body], node.body, strict=False)
        node.body = [each for before, each in pairs if before is None or ast.dump(before) != ast.dump(each)]
        return node
