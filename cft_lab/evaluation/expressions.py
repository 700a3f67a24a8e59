"""Reads arithmetic and algebra in LaTeX or plain notation. Pure Python, bounded in time and memory.

`read_expression` gives a tree of tuples, or None for what it does not know (integrals, sums, words): never an exception.
Nothing is handed to an interpreter. cft_lab.evaluation.rational and cft_lab.evaluation.numeric compute values.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]

_MAX_DEPTH = 60
_MAX_TOKENS = 3_000
_MAX_POSTFIXES = 8  # powers and exclamation marks in a row
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,4000}(?:\.\d{0,4000})?|\.\d{1,4000})(?:[eE][-+]?\d{1,4}(?![\d.a-zA-Z{]))?)"
    r"|(?P<command>\\[a-zA-Z]+)|(?P<word>[a-zA-Z]+)|(?P<other>\\[{}|]|.))"
)
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "asin", "acos", "atan"}
    | {"sinh", "cosh", "tanh", "ln", "log", "lg", "exp", "sqrt", "floor", "ceil", "abs"}
)
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa", "lambda"}
    | {"mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "hbar", "ell"}
    | {"Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"}
)
_FUNCTION_NAMES = frozenset("fghpquyEFGHIPVX")
_ACCENTS = frozenset(["dot", "ddot", "bar", "hat", "tilde", "overline", "vec", "overrightarrow", "widehat", "mathbb"])
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}


class _UnreadableError(Exception):
    """The text is no expression that this reader knows."""


@functools.lru_cache(maxsize=16_384)
def read_expression(text: str) -> Node | None:
    """The expression tree of a cleaned text (see answer_text.clean), or None if it cannot be read."""
    try:
        reader = _Reader(text)
        node = reader.sum(0)
        reader.expect_end()
    except _UnreadableError:
        return None
    names = variables(node)
    if names and names <= {"I", "j"}:  # engineers' and programs' imaginary unit, where nothing else is unknown
        node = _substitute(node)
    return node


def _substitute(node: Node) -> Node:
    if node[0] == "var":
        return ("const", "i")
    return (node[0], *(_substitute(part) if isinstance(part, tuple) else part for part in node[1:]))


def variables(node: Node) -> frozenset[str]:
    """The names of the unknowns."""
    if node[0] == "var":
        return frozenset({node[1]})
    return frozenset().union(*(variables(part) for part in node[1:] if isinstance(part, tuple)))


def has(node: Node, kind: str, value: str | None = None) -> bool:
    """Whether the tree holds a node of this kind (and first entry)."""
    if node[0] == kind and value in (None, node[1]):
        return True
    return any(has(part, kind, value) for part in node[1:] if isinstance(part, tuple))


class _Reader:
    """Recursive descent. Juxtaposition is multiplication with the strength of `*`; a/b c is (a/b) c."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        for match in _TOKEN.finditer(text.strip()):
            kind = str(match.lastgroup)
            value = match[kind]
            if kind == "word":
                self._split_word(value)
            else:
                self.tokens.append((kind, value))
            if len(self.tokens) > _MAX_TOKENS:
                raise _UnreadableError
        self.place = 0

    def _split_word(self, word: str) -> None:
        """`sqrt`, `pi`, `sin` are commands without their backslash; any other word is a product of letters."""
        lowered = word.lower()
        if lowered in FUNCTIONS or lowered in ("pi", "inf", "infty", "infinity", "oo", "theta"):
            self.tokens.append(("command", "\\" + {"inf": "infty", "infinity": "infty", "oo": "infty"}.get(lowered, lowered)))
        elif len(word) > 3 and not re.search(r"[^a-z]", word) and re.search(r"[aeiou]", word):
            raise _UnreadableError  # English
        else:
            self.tokens += [("letter", letter) for letter in word]

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.place += 1
        return token

    def expect(self, value: str) -> None:
        if self.take()[1] != value:
            raise _UnreadableError

    def expect_end(self) -> None:
        if self.peek()[0] != "end" or not self.tokens:
            raise _UnreadableError

    def sum(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        parts = [self.product(depth + 1)]
        while self.peek()[1] in ("+", "-"):
            sign = self.take()[1]
            part = self.product(depth + 1)
            parts.append(("neg", part) if sign == "-" else part)
        return parts[0] if len(parts) == 1 else ("add", *parts)

    def product(self, depth: int) -> Node:
        negative = False
        while self.peek()[1] in ("+", "-"):
            negative ^= self.take()[1] == "-"
        above = [self.factor(depth)]
        below: list[Node] = []  # flat, so that a long product makes no deep tree
        divided = False  # whether the last factor stands below
        while True:
            value = self.peek()[1]
            if value in ("*", "\\cdot", "\\times", "\\ast", "/", "\\div"):
                self.take()
                divided = value in ("/", "\\div")
                (below if divided else above).append(self.signed_factor(depth))
            elif self.starts_factor():
                left = None if divided else above.pop()
                above += self.juxtapose(left, depth)
                divided = False
            else:
                node: Node = above[0] if len(above) == 1 else ("mul", *above)
                if below:
                    node = ("div", node, below[0] if len(below) == 1 else ("mul", *below))
                return ("neg", node) if negative else node

    def signed_factor(self, depth: int) -> Node:
        if self.peek()[1] == "-":
            self.take()
            return ("neg", self.factor(depth))
        return self.factor(depth)

    def juxtapose(self, left: Node | None, depth: int) -> list[Node]:
        """The factors that `left` (None: it stands below a slash) and the next one make.

        2x is a product; 1 1/2 and 1\\frac{1}{2} are mixed numbers; two other numbers in a row are unreadable.
        """
        right = self.factor(depth)
        if left is None or left[0] != "num" or left[1].denominator != 1:
            if right[0] == "num":
                raise _UnreadableError
            return [right] if left is None else [left, right]
        if right[0] == "num":
            if self.peek()[1] != "/":
                raise _UnreadableError
            self.take()
            below = self.factor(depth)
            if below[0] != "num":
                raise _UnreadableError
            return [("add", left, ("div", right, below))]
        if right[0] == "div" and right[1][0] == "num" and right[2][0] == "num":
            return [("add", left, right)]
        return [left, right]

    def starts_factor(self) -> bool:
        kind, value = self.peek()
        if kind in ("number", "letter"):
            return True
        if kind == "command":
            name = value[1:]
            return (
                name in FUNCTIONS
                or name in _GREEK
                or name in _ACCENTS
                or name in ("frac", "binom", "pi", "infty", "lfloor", "lceil")
            )
        return value in ("(", "{", "[")

    def factor(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        node = self.base(depth + 1)
        for _ in range(_MAX_POSTFIXES):
            value = self.peek()[1]
            if value == "^":
                self.take()
                if self.peek()[1] == "\\circ":
                    self.take()
                    node = ("deg", node)
                    continue
                node = ("pow", node, self.exponent(depth + 1))
            elif value == "!":
                self.take()
                node = ("func", "factorial", node)
            else:
                return node
        raise _UnreadableError

    def exponent(self, depth: int) -> Node:
        """a^b^c is a^(b^c)."""
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        node = self.argument(depth)
        if self.peek()[1] == "^":
            self.take()
            return ("pow", node, self.exponent(depth + 1))
        return node

    def argument(self, depth: int) -> Node:
        """What ^, \\frac and \\sqrt apply to: a group or a single token; \\frac12 has two one-digit arguments."""
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        kind, value = self.peek()
        if kind == "number" and len(value) > 1 and self.tokens[self.place - 1][1] not in ("^", "-"):
            self.tokens[self.place] = ("number", value[1:])
            return ("num", Fraction(value[0])) if value[0] != "." else self.base(depth)
        if value == "-":
            self.take()
            return ("neg", self.argument(depth + 1))
        if value == "(":
            return self.factor_group(depth)
        return self.base(depth + 1)

    def factor_group(self, depth: int) -> Node:
        self.expect("(")
        node = self.sum(depth + 1)
        self.expect(")")
        return node

    def base(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        kind, value = self.take()
        if kind == "number":
            return ("num", Fraction(value.rstrip(".") if value != "." else "0"))
        if kind == "letter":
            return self.letter(value)
        if kind == "command":
            return self.command(value[1:], depth)
        if value in ("(", "{", "["):
            node = self.sum(depth + 1)
            self.expect({"(": ")", "{": "}", "[": "]"}[value])
            return node
        if value == "|":
            node = self.sum(depth + 1)
            self.expect("|")
            return ("func", "abs", node)
        raise _UnreadableError

    def letter(self, value: str) -> Node:
        name = value + self.subscript()
        following = [token for _, token in self.tokens[self.place : self.place + 3]]
        if value in _FUNCTION_NAMES and following[:1] == ["("] and following[2:] == [")"] and following[1][0].isdigit():
            self.place += 3
            return ("var", f"{name}({following[1]})")  # f(0) is a value of f, not f times 0
        if name in ("e", "i"):
            return ("const", name)
        return ("var", name)

    def subscript(self) -> str:
        """The index and primes behind a name, as text."""
        text = ""
        while self.peek()[1] == "'":
            text += self.take()[1]
        if self.peek()[1] == "_":
            self.take()
            text += "_" + self.raw_group()
        while self.peek()[1] == "'":
            text += self.take()[1]
        return text

    def raw_group(self) -> str:
        """The text of the next group or token, without braces and text commands."""
        kind, value = self.take()
        if value != "{":
            if kind not in ("letter", "number", "command"):
                raise _UnreadableError
            return value
        parts: list[str] = []
        depth = 1
        while depth:
            kind, value = self.take()
            if kind == "end":
                raise _UnreadableError
            depth += {"{": 1, "}": -1}.get(value, 0)
            if value not in ("{", "}", "\\text"):
                parts.append(value)
        return "".join(parts)

    def command(self, name: str, depth: int) -> Node:
        if name == "frac":
            top, below = self.argument(depth + 1), self.argument(depth + 1)
            return ("div", top, below)
        if name == "binom":
            return ("binom", self.argument(depth + 1), self.argument(depth + 1))
        if name == "sqrt":
            return self.root(depth)
        if name == "pi" or name == "infty":
            return ("const", name)
        if name in _GREEK:
            return ("var", "\\" + name + self.subscript())
        if name in _ACCENTS:
            return ("var", "\\" + name + self.raw_group() + self.subscript())
        if name in ("lfloor", "lceil"):
            node = self.sum(depth + 1)
            self.expect("\\rfloor" if name == "lfloor" else "\\rceil")
            return ("func", "floor" if name == "lfloor" else "ceil", node)
        if name in FUNCTIONS:
            return self.function(_ALIASES.get(name, name), depth)
        raise _UnreadableError

    def root(self, depth: int) -> Node:
        index: Node = ("num", Fraction(2))
        if self.peek()[1] == "[":
            self.take()
            index = self.sum(depth + 1)
            self.expect("]")
        return ("root", self.argument(depth + 1), index)

    def function(self, name: str, depth: int) -> Node:
        base: Node | None = None
        power: Node | None = None
        while self.peek()[1] in ("_", "^"):
            mark = self.take()[1]
            value = self.argument(depth + 1)
            if mark == "_":
                base = value
            else:
                power = value
        argument = self.function_argument(depth)
        if power == ("neg", ("num", Fraction(1))) and name in _INVERSES:
            name, power = _INVERSES[name], None
        if name == "lg":
            name, base = "log", ("num", Fraction(10))
        if name == "exp":
            node: Node = ("pow", ("const", "e"), argument)
        elif base is not None and name in ("log", "ln"):
            node = ("div", ("func", "ln", argument), ("func", "ln", base))
        elif base is not None:
            raise _UnreadableError
        else:
            node = ("func", "ln" if name == "log" else name, argument)
        return node if power is None else ("pow", node, power)

    def function_argument(self, depth: int) -> Node:
        """A group, or the factors that follow up to the next sign or function: \\sin 3x."""
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        if self.peek()[1] in ("(", "{", "["):
            return self.base(depth + 1)
        factors = [self.signed_factor(depth + 1)]
        while self.starts_factor() and self.peek()[1][1:] not in FUNCTIONS - {"sqrt"} and self.peek()[1] not in ("(", "["):
            factors.append(self.factor(depth + 1))
        node: Node = factors[0] if len(factors) == 1 else ("mul", *factors)
        if self.peek()[1] == "/" and node[0] in ("const", "num", "mul"):  # \cos \pi/3
            self.take()
            node = ("div", node, self.factor(depth + 1))
        return node


def _order(part: Any) -> str:
    """Something to sort by. Numbers in hexadecimal: Python refuses to write integers of more than 4,300 digits in decimal."""
    if isinstance(part, tuple):
        return "(" + ",".join(_order(inner) for inner in part) + ")"
    return f"{part.numerator:x}/{part.denominator:x}" if isinstance(part, Fraction) else str(part)


def canonical_tree(node: Node) -> Node:
    """The tree with the terms of sums and the factors of products in one order, so that 1+x and x+1 are one tree."""
    if node[0] == "num":
        return node
    parts = tuple(canonical_tree(part) if isinstance(part, tuple) else part for part in node[1:])
    if node[0] in ("add", "mul"):
        flat: list[Any] = []
        for part in parts:
            flat += part[1:] if part[0] == node[0] else [part]
        return (node[0], *sorted(flat, key=_order))
    return (node[0], *parts)
