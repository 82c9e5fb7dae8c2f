"""The schemas of the operators, as torch has them registered."""

import torch

import softmax_ext  # noqa: F401  (registers them)

NAMESPACE = "softmax_ext::"


def schemas() -> dict[str, list[str]]:
    """Of each operator, its overloads."""
    result: dict[str, list[str]] = {}
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith(NAMESPACE):
            result.setdefault(schema.name.removeprefix(NAMESPACE), []).append(str(schema).removeprefix(NAMESPACE))
    # The default overload, whose name ends where the arguments begin, is first.
    return {name: sorted(result[name]) for name in sorted(result)}


def table() -> str:
    """Public operators first; primitives, which begin with an underscore, after them."""
    of_name = schemas()
    parts = []
    for title, names in (
        ("Public operators", [name for name in of_name if not name.startswith("_")]),
        ("Primitives", [name for name in of_name if name.startswith("_")]),
    ):
        parts.append(f"## {title}\n")
        for name in names:
            parts.append(f"### {name}\n")
            parts += [f"```text\n{_folded(schema)}\n```\n" for schema in of_name[name]]
    return "\n".join(parts)


def _folded(schema: str) -> str:
    """One argument a line where it is long."""
    if len(schema) <= 88:
        return schema
    head, rest = schema.split("(", 1)
    depth, arguments, current = 0, [], ""
    for i, character in enumerate(rest):
        if character == ")" and depth == 0:
            arguments.append(current)
            return head + "(\n  " + ",\n  ".join(arguments) + rest[i:]
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            arguments.append(current.strip())
            current = ""
        else:
            current += character
            current = current.lstrip()
    raise ValueError(f"expected a schema with arguments in parentheses, got {schema}")
