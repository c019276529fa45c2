"""The language of known constraints: a small, safe expression language over parameters and facts.

    max_num_batched_tokens >= max_num_seqs
    enable_chunked_prefill or max_num_batched_tokens >= max_model_len
    kv_cache_dtype in ("fp8", "fp8_e5m2") implies not enable_prefix_caching

Loosest first: `implies` (groups to the right; also a function, `implies(a, b)`), `or`, `and`, `not`, comparisons
(`== != < <= > >=`, chained as in `1 <= a < b`; `in` and `not in` a list of literals), `+ -`, `* / // %`, unary `-`.
Operands are names, numbers, "texts" (no escapes), `true` and `false`. There is nothing else: no other calls, no
attributes, no indexing; a constraint is parsed by this module alone and never reaches Python's own evaluator.

Values are booleans, numbers (64-bit floats: exact for integers up to 2**53) or texts, and are never converted into each
other: `flag == 1` is refused. Everything works on columns, one value per configuration. Division by zero gives NaN or
infinity, for which every comparison but `!=` is false (NaN) or as IEEE 754 says.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Scalar

Column = npt.NDArray[Any]
"""(N,) or (): one value per configuration, of dtype bool, integer, float or unicode text."""

MAX_DEPTH: Final = 32
"""Deepest nesting of an expression, in operators."""

RESERVED: Final = frozenset({"and", "or", "not", "in", "implies", "true", "false", "True", "False"})
"""Words that cannot name a parameter."""

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z_0-9]*)
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<operator>//|==|!=|<=|>=|[-+*/%<>()\[\],])""",
    re.VERBOSE,
)
_OTHER_SPELLINGS: Final = MappingProxyType(
    {
        "&&": "write `and`",
        "&": "write `and`",
        "||": "write `or`",
        "|": "write `or`",
        "!": "write `not`",
        "=": "write `==` to compare",
        "=>": "write `implies`",
        "->": "write `implies`",
        "**": "powers are not supported: multiply",
        "^": "powers are not supported: multiply",
        "<>": "write `!=`",
    }
)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Kind(Enum):
    """The type of a value."""

    BOOLEAN = "true or false"
    NUMBER = "a number"
    TEXT = "a text"


class _Value(NamedTuple):
    kind: _Kind
    array: Column


@dataclass(frozen=True, slots=True)
class _Node(ABC):
    """A piece of an expression; `at` is its first character's position, from 0."""

    at: int
    depth: int

    @abstractmethod
    def value(self, scope: _Scope) -> _Value:
        """The value of this piece for every configuration."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The expression's text, for errors, and the columns of its names."""

    text: str
    columns: Mapping[str, Column]

    def need(self, node: _Node, kind: _Kind, role: str) -> Column:
        """The column of `node`, which must be of `kind` because of `role`."""
        found = node.value(self)
        if found.kind is not kind:
            raise _error(self.text, node.at, f"{role} needs {kind.value}, but here is {found.kind.value}")
        return found.array


def _error(text: str, at: int, problem: str, hint: str = "") -> UserError:
    shown = text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - a line or two of a terminal
    return UserError(f"{problem}, at column {at + 1} of `{shown}`", hint=hint)


@dataclass(frozen=True, slots=True)
class _Literal(_Node):
    content: Scalar

    def value(self, scope: _Scope) -> _Value:
        del scope
        return _of_array(np.asarray(self.content))


@dataclass(frozen=True, slots=True)
class _Name(_Node):
    name: str

    def value(self, scope: _Scope) -> _Value:
        return _of_array(scope.columns[self.name])


def _of_array(array: Column) -> _Value:
    match array.dtype.kind:
        case "b":
            return _Value(_Kind.BOOLEAN, array)
        case "i" | "u" | "f":
            return _Value(_Kind.NUMBER, array.astype(np.float64, copy=False))
        case "U":
            return _Value(_Kind.TEXT, array)
        case _:
            raise TypeError(f"columns hold booleans, numbers or texts, not {array.dtype}")


@dataclass(frozen=True, slots=True)
class _Negative(_Node):
    operand: _Node

    def value(self, scope: _Scope) -> _Value:
        return _Value(_Kind.NUMBER, -scope.need(self.operand, _Kind.NUMBER, "`-`"))


@dataclass(frozen=True, slots=True)
class _Arithmetic(_Node):
    operator: str
    left: _Node
    right: _Node

    def value(self, scope: _Scope) -> _Value:
        role = f"`{self.operator}`"
        left = scope.need(self.left, _Kind.NUMBER, role)
        right = scope.need(self.right, _Kind.NUMBER, role)
        return _Value(_Kind.NUMBER, np.asarray(_ARITHMETIC[self.operator](left, right)))


@dataclass(frozen=True, slots=True)
class _Not(_Node):
    operand: _Node

    def value(self, scope: _Scope) -> _Value:
        return _Value(_Kind.BOOLEAN, ~scope.need(self.operand, _Kind.BOOLEAN, "`not`"))


@dataclass(frozen=True, slots=True)
class _Logic(_Node):
    """`and`, `or`: any number of operands; `implies`: two."""

    operator: str
    operands: tuple[_Node, ...]

    def value(self, scope: _Scope) -> _Value:
        first, *others = (scope.need(operand, _Kind.BOOLEAN, f"`{self.operator}`") for operand in self.operands)
        for other in others:
            first = np.asarray(_LOGIC[self.operator](first, other))
        return _Value(_Kind.BOOLEAN, first)


@dataclass(frozen=True, slots=True)
class _Comparison(_Node):
    """A chain `operands[0] operators[0] operands[1] ...`: true if every link is."""

    operators: tuple[str, ...]
    operands: tuple[_Node, ...]

    def value(self, scope: _Scope) -> _Value:
        values = [operand.value(scope) for operand in self.operands]
        result: Column = np.asarray(True)
        for position, operator in enumerate(self.operators):
            left, right, node = values[position], values[position + 1], self.operands[position + 1]
            if left.kind is not right.kind:
                raise _error(scope.text, node.at, f"`{operator}` compares {left.kind.value} with {right.kind.value}")
            if operator not in {"==", "!="} and left.kind is not _Kind.NUMBER:
                raise _error(scope.text, node.at, f"`{operator}` needs numbers, but here is {left.kind.value}")
            result = result & _COMPARISONS[operator](left.array, right.array)
        return _Value(_Kind.BOOLEAN, np.asarray(result))


@dataclass(frozen=True, slots=True)
class _Membership(_Node):
    operand: _Node
    items: tuple[_Literal, ...]
    negated: bool

    def value(self, scope: _Scope) -> _Value:
        operand = self.operand.value(scope)
        result: Column = np.zeros(operand.array.shape, dtype=np.bool_)
        for item in self.items:
            other = item.value(scope)
            if other.kind is not operand.kind:
                raise _error(scope.text, item.at, f"`in` compares {operand.kind.value} with {other.kind.value}")
            result = result | (operand.array == other.array)
        return _Value(_Kind.BOOLEAN, np.asarray(~result if self.negated else result))


_Operation = Callable[[Column, Column], Any]
_ARITHMETIC: Final[Mapping[str, _Operation]] = MappingProxyType(
    {
        "+": np.add,
        "-": np.subtract,
        "*": np.multiply,
        "/": np.divide,
        "//": np.floor_divide,
        "%": np.mod,
    }
)
_COMPARISONS: Final[Mapping[str, _Operation]] = MappingProxyType(
    {
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
    }
)
_LOGIC: Final[Mapping[str, _Operation]] = MappingProxyType(
    {
        "and": np.logical_and,
        "or": np.logical_or,
        "implies": lambda a, b: np.logical_or(np.logical_not(a), b),
    }
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed constraint.

    Attributes:
        text: as written.
        names: the parameters and facts it mentions.
        literals: the numbers it mentions, ascending; boundary values worth trying.
        role: what it is, for errors: "a constraint".
    """

    text: str
    names: frozenset[str]
    literals: tuple[float, ...]
    _root: _Node
    role: str = "a constraint"

    def evaluate(self, columns: Mapping[str, Column]) -> npt.NDArray[np.bool_]:
        """Whether each configuration satisfies it.

        Args:
            columns: for every name in `names`, (N,) values, or () for a value common to all. Empty columns are allowed
                and check the types.

        Returns:
            (N,) booleans, or () if all columns are ().

        Raises:
            UserError: operands of wrong types, or the whole is not true or false.
        """
        scope = _Scope(self.text, columns)
        with np.errstate(all="ignore"):
            result = scope.need(self._root, _Kind.BOOLEAN, self.role)
        return np.asarray(result, dtype=np.bool_)


def parse(
    text: str, names: Collection[str], *, hints: Mapping[str, str] | None = None, role: str = "a constraint"
) -> Expression:
    """Parse a constraint, or another expression that is true or false.

    Args:
        text: at most limits.STRING_CHARS characters.
        names: the names it may mention.
        hints: what to tell about names that are not there but might be expected.
        role: what it is, for errors.

    Raises:
        UserError: naming the column and the text there.
    """
    if len(text) > limits.STRING_CHARS:
        raise UserError(
            f"{role} has at most {limits.STRING_CHARS} characters, not {len(text)}",
            hint="split it: all constraints of a study hold together",
        )
    if not text.strip():
        raise UserError(f"{role} is empty", hint="for example `max_num_batched_tokens >= max_num_seqs`")
    parser = _Parser(text, names, hints or {})
    root = parser.whole()
    return Expression(text, frozenset(parser.used), tuple(sorted(parser.numbers)), root, role)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise _bad_character(text, at)
        at = match.end()
        if match.lastgroup != "space":
            yield _Token(match.lastgroup, match.group(), match.start())
    yield _Token("end", "", len(text))


def _bad_character(text: str, at: int) -> UserError:
    if text[at] in "\"'":
        return _error(text, at, f"a text that is not closed: {text[at:][:40]!r}")
    word = next((text[at : at + size] for size in (2, 1) if text[at : at + size] in _OTHER_SPELLINGS), text[at])
    return _error(text, at, f"unexpected {word!r}", _OTHER_SPELLINGS.get(word, ""))


class _Parser:
    """Recursive descent, one method per level of precedence."""

    def __init__(self, text: str, names: Collection[str], hints: Mapping[str, str]) -> None:
        self._text = text
        self._names = names
        self._hints = hints
        self._tokens = list(_tokens(text))
        self._next = 0
        self._open = 0
        self.used: set[str] = set()
        self.numbers: set[float] = set()

    def whole(self) -> _Node:
        root = self._implies()
        token = self._token
        if token.kind != "end":
            joined = self._text[self._tokens[self._next - 1].at : token.at + len(token.text)]
            raise self._error(token, f"unexpected {token.text!r}", _OTHER_SPELLINGS.get(joined, ""))
        return root

    # -- tokens --------------------------------------------------------------------------------------------------------

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        """The next token, consumed, if it is one of these operators or words."""
        token = self._token
        if token.kind in {"operator", "name"} and token.text in texts:
            self._next += 1
            return token
        return None

    def _expect(self, text: str, opened: _Token) -> None:
        if self._take(text) is None:
            token = self._token
            found = repr(token.text) if token.text else "the end"
            raise self._error(
                token, f"expected `{text}` for the `{opened.text}` of column {opened.at + 1}, found {found}"
            )

    def _error(self, token: _Token, problem: str, hint: str = "") -> UserError:
        return _error(self._text, token.at, problem, hint)

    def _depth(self, token: _Token, *nodes: _Node) -> int:
        depth = 1 + max((node.depth for node in nodes), default=0)
        if depth > MAX_DEPTH:
            raise self._too_deep(token)
        return depth

    def _enter(self, token: _Token) -> None:
        """Count a recursion that no node accounts for yet."""
        self._open += 1
        if self._open > MAX_DEPTH:
            raise self._too_deep(token)

    def _too_deep(self, token: _Token) -> UserError:
        return self._error(
            token, f"more than {MAX_DEPTH} operators inside each other", "split the constraint into several"
        )

    # -- levels of precedence, loosest first ---------------------------------------------------------------------------

    def _implies(self) -> _Node:
        left = self._or()
        token = self._take("implies")
        if token is None:
            return left
        self._enter(token)
        right = self._implies()
        self._open -= 1
        return _Logic(left.at, self._depth(token, left, right), "implies", (left, right))

    def _or(self) -> _Node:
        return self._many("or", self._and)

    def _and(self) -> _Node:
        return self._many("and", self._not)

    def _many(self, word: str, operand: Callable[[], _Node]) -> _Node:
        first = operand()
        token = self._take(word)
        if token is None:
            return first
        operands = [first, operand()]
        while self._take(word):
            operands.append(operand())
        return _Logic(first.at, self._depth(token, *operands), word, tuple(operands))

    def _not(self) -> _Node:
        token = self._take("not")
        if token is None:
            return self._comparison()
        self._enter(token)
        operand = self._not()
        self._open -= 1
        return _Not(token.at, self._depth(token, operand), operand)

    def _comparison(self) -> _Node:
        first = self._sum()
        membership = self._membership(first)
        if membership is not None:
            return membership
        operators: list[str] = []
        operands = [first]
        while token := self._take(*_COMPARISONS):
            operators.append(token.text)
            operands.append(self._sum())
        if not operators:
            return first
        if self._token.text in {"in", "not"}:
            raise self._error(self._token, f"`{self._token.text}` cannot follow a comparison", "join them with `and`")
        return _Comparison(first.at, self._depth(self._token, *operands), tuple(operators), tuple(operands))

    def _membership(self, operand: _Node) -> _Node | None:
        negation = self._take("not")
        token = self._take("in")
        if token is None:
            if negation is not None:
                raise self._error(negation, "unexpected 'not'", "`not` stands before what it negates, or in `not in`")
            return None
        opened = self._take("(", "[")
        if opened is None:
            raise self._error(self._token, "`in` needs a list of literals", "for example `block_size in (16, 32)`")
        closing = ")" if opened.text == "(" else "]"
        items = [self._list_item()]
        while self._take(",") and self._token.text != closing:
            items.append(self._list_item())
        self._expect(closing, opened)
        return _Membership(operand.at, self._depth(token, operand), operand, tuple(items), negation is not None)

    def _list_item(self) -> _Literal:
        sign = self._take("-")
        node = self._operand()
        if not isinstance(node, _Literal) or (sign is not None and not _is_number(node.content)):
            raise _error(self._text, node.at, "a list holds literals only", "compare names with `==` and `or`")
        if sign is None:
            return node
        return _Literal(sign.at, 1, -node.content)  # type: ignore[operator]  # a number, checked above

    def _sum(self) -> _Node:
        return self._left_to_right(("+", "-"), self._product)

    def _product(self) -> _Node:
        return self._left_to_right(("*", "/", "//", "%"), self._negative)

    def _left_to_right(self, operators: tuple[str, ...], operand: Callable[[], _Node]) -> _Node:
        left = operand()
        while token := self._take(*operators):
            if token.text == "*" and self._token.text == "*":
                raise self._error(token, "unexpected '**'", _OTHER_SPELLINGS["**"])
            right = operand()
            left = _Arithmetic(left.at, self._depth(token, left, right), token.text, left, right)
        return left

    def _negative(self) -> _Node:
        token = self._take("-")
        if token is None:
            return self._operand()
        self._enter(token)
        operand = self._negative()
        self._open -= 1
        return _Negative(token.at, self._depth(token, operand), operand)

    def _operand(self) -> _Node:
        token = self._token
        self._next += 1
        if token.kind == "number":
            return self._number(token)
        if token.kind == "text":
            return _Literal(token.at, 1, token.text[1:-1])
        if token.kind == "name":
            return self._name(token)
        if token.text == "(":
            self._enter(token)
            node = self._implies()
            self._expect(")", token)
            self._open -= 1
            return node
        raise self._error(
            token, f"expected a value, found {token.text!r}" if token.text else "the constraint breaks off"
        )

    def _number(self, token: _Token) -> _Node:
        try:
            number = float(token.text)
        except ValueError:
            raise self._error(token, f"{token.text!r} is not a number") from None
        if number == float("inf"):
            raise self._error(token, f"{token.text!r} is too large")
        self.numbers.add(number)
        return _Literal(token.at, 1, number)

    def _name(self, token: _Token) -> _Node:
        word = token.text
        if word.lower() in {"true", "false"}:
            return _Literal(token.at, 1, word.lower() == "true")
        if word == "implies" and self._token.text == "(":
            return self._implies_call(token)
        if word in RESERVED:
            raise self._error(token, f"expected a value, found {word!r}")
        if word in self._names:
            self.used.add(word)
            return _Name(token.at, 1, word)
        if self._token.text == "(":
            raise self._error(token, f"there is no function {word!r}", "the only one is `implies(a, b)`")
        hint = self._hints.get(word)
        if hint is None:
            near = difflib.get_close_matches(word, [*self._names, *RESERVED], n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known names: {', '.join(sorted(self._names))}"
        raise self._error(token, f"unknown name {word!r}", hint)

    def _implies_call(self, token: _Token) -> _Node:
        self._enter(token)
        opened = self._tokens[self._next]
        self._next += 1
        left = self._implies()
        if self._take(",") is None:
            raise self._error(self._token, "`implies(a, b)` takes two conditions")
        right = self._implies()
        self._expect(")", opened)
        self._open -= 1
        return _Logic(token.at, self._depth(token, left, right), "implies", (left, right))


def _is_number(content: Scalar) -> bool:
    return not isinstance(content, bool | str)
