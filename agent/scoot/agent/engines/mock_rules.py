"""Conditions over the mock engine's parameters and load, as in "block_size % 32 != 0". Pure.

Arithmetic, comparisons, `and`, `or`, `not`, min, max and abs over names, numbers, texts and booleans; nothing else of
Python is understood.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from scoot.wire.errors import UserError

Value = bool | int | float | str

_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
    }
)
_COMPARE: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        ast.Eq: operator.eq,
        ast.NotEq: operator.ne,
        ast.Lt: operator.lt,
        ast.LtE: operator.le,
        ast.Gt: operator.gt,
        ast.GtE: operator.ge,
    }
)
_CALLS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType({"min": min, "max": max, "abs": abs})
_HARMLESS: Final = (
    *(ast.BinOp, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Name, ast.Load, ast.And, ast.Or, ast.Not, ast.USub),
    *_BINARY,
    *_COMPARE,
)
_CHARS: Final = 1000


class Condition:
    """A parsed condition.

    Args:
        text: the condition.
        names: the names it may use.
        key: where it stands, for errors.

    Raises:
        UserError: it is not a condition, or uses another name.
    """

    def __init__(self, text: str, names: frozenset[str], *, key: str) -> None:
        self.text = text
        if len(text) > _CHARS:
            raise UserError(f"the condition is longer than {_CHARS} characters", key=key)
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"{text!r} is not a condition", key=key, hint='as "block_size % 32 != 0"') from error
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name) and node.id not in names and node.id not in _CALLS:
                raise UserError(f"unknown name {node.id!r}", key=key, hint="known are " + ", ".join(sorted(names)))
            if not _understood(node):
                raise UserError(f"{text!r} uses more than arithmetic and comparisons", key=key)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it is true. One that cannot be computed (a division by zero, mixed types) is not."""
        try:
            return bool(_evaluate(self._tree, values))
        except (ArithmeticError, TypeError, ValueError, KeyError):
            return False


def _understood(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float | str)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in _CALLS
    return isinstance(node, _HARMLESS)


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Any:  # noqa: ANN401 - of whatever type the condition has
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BoolOp(op=op, values=parts):
            results = (bool(_evaluate(part, values)) for part in parts)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.UnaryOp(op=op, operand=operand):
            result = _evaluate(operand, values)
            return not result if isinstance(op, ast.Not) else -result
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _CALLS[name](*(_evaluate(argument, values) for argument in arguments))
    return _compute(node, values)


def _compute(node: ast.expr, values: Mapping[str, Value]) -> Any:  # noqa: ANN401 - as _evaluate
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            operands = (_evaluate(left, values), _evaluate(right, values))
            if any(isinstance(operand, str) for operand in operands):
                raise TypeError("texts can be compared only")
            return _BINARY[type(op)](*operands)
        case ast.Compare(left=left, ops=comparisons, comparators=rights):
            chain = [_evaluate(part, values) for part in (left, *rights)]
            return all(
                _COMPARE[type(comparison)](a, b)
                for comparison, a, b in zip(comparisons, chain, chain[1:], strict=False)
            )
    raise TypeError(f"{type(node).__name__} is not understood")
