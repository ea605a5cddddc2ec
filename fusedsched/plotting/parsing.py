# SPDX-License-Identifier: Apache-2.0
"""Schedules written as text. The text is parsed and never evaluated: it can only name schedules."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from typing import Any

from fusedsched.command_line import near_names

from ..schedules.expression import Schedule, as_schedule

LONGEST = 10_000  # characters
ALLOWED = (
    "An expression is made of the schedules of fusedsched.schedules, numbers, strings, lists, keyword arguments, "
    "'*' and '>>'."
)
_TAKE_OBJECTS = ("from_function", "from_torch", "lower")  # their arguments cannot be written as text
_PREFIXES = ("S", "schedules")  # as the documentation writes them


@cache
def names() -> dict[str, Any]:
    """The functions that an expression may call, by name.

    >>> "warmup_cosine" in names(), "from_torch" in names(), "Program" in names()
    (True, False, False)
    """
    from .. import schedules

    found = {name: value for name, value in vars(schedules).items() if inspect.isfunction(value)}
    return {name: value for name, value in sorted(found.items()) if name not in _TAKE_OBJECTS}


def parse(text: str) -> Schedule:
    """The schedule of an expression. Names are those of `fusedsched.schedules`, with `S.` before or not.

    Raises ValueError with the message to print: what is not allowed, the names near an unknown one, or the error that
    the schedule raised.

    >>> parse("warmup(2) >> linear(1.0, 0.0, steps=4)").curve(4)
    [0.5, 1.0, 1.0, 0.75]
    >>> parse("0.5 * join([1, S.step(1, 2, gamma=0.5)], boundaries=[1])").curve(4)
    [0.5, 0.5, 0.5, 0.25]
    >>> parse("__import__('os').getcwd()")
    Traceback (most recent call last):
        ...
    ValueError: '__import__('os').getcwd' cannot be called here. An expression is made of the schedules of \
fusedsched.schedules, numbers, strings, lists, keyword arguments, '*' and '>>'.
    """
    if len(text) > LONGEST:
        raise ValueError(f"The expression has {len(text)} characters; at most {LONGEST} are read.")
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an expression: {error.msg}, at character {error.offset}.") from None
    except (RecursionError, MemoryError):
        raise ValueError("The expression is nested too deeply.") from None
    if isinstance(value, bool) or not isinstance(value, (Schedule, int, float)):
        raise ValueError(f"{text!r} is a {type(value).__name__}, not a schedule. {ALLOWED}")
    return as_schedule(value, "the expression")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _value(node.operand)
        if isinstance(number, (int, float)):
            return -number if isinstance(node.op, ast.USub) else number
    elif isinstance(node, ast.BinOp):
        return _operation(node)
    elif isinstance(node, ast.Call):
        return _call(node)
    elif isinstance(node, ast.Name):
        _known(node.id)
        raise ValueError(f"{node.id} needs its arguments. Write {_signature(node.id)}.")
    raise ValueError(f"{ast.unparse(node)!r} is not allowed. {ALLOWED}")


def _operation(node: ast.BinOp) -> Any:
    operation = {ast.Mult: "*", ast.RShift: ">>"}.get(type(node.op))
    sides = (_value(node.left), _value(node.right))
    if operation is None or any(isinstance(s, bool) or not isinstance(s, (Schedule, int, float)) for s in sides):
        raise ValueError(f"{ast.unparse(node)!r} is not allowed. {ALLOWED}")
    left, right = sides
    try:
        return left * right if operation == "*" else as_schedule(left) >> right
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{ast.unparse(node)}: {error}") from None


def _call(node: ast.Call) -> Schedule:
    name = node.func
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id in _PREFIXES:
        name = ast.Name(name.attr)
    if not isinstance(name, ast.Name):
        raise ValueError(f"'{ast.unparse(node.func)}' cannot be called here. {ALLOWED}")
    function = _known(name.id)
    for part in (*node.args, *node.keywords):
        if isinstance(part, ast.Starred) or (isinstance(part, ast.keyword) and part.arg is None):
            raise ValueError(f"{ast.unparse(node)!r}: write the arguments out, without '*' or '**' before them.")
    args = [_value(arg) for arg in node.args]
    keywords = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    try:
        inspect.signature(function).bind(*args, **keywords)
    except TypeError as error:
        raise ValueError(f"{name.id}: {error}. It is {_signature(name.id)}.") from None
    try:
        return function(*args, **keywords)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name.id}: {error}") from None


def _known(name: str) -> Any:
    if name in names():
        return names()[name]
    if name in _TAKE_OBJECTS:
        raise ValueError(f"{name} takes a Python object. Give the schedule that it returns as module:object.")
    raise ValueError(f"There is no schedule {name!r}. {near_names(name, names())}")


def _signature(name: str) -> str:
    parameters = inspect.signature(names()[name]).parameters.values()
    plain = (p.replace(annotation=inspect.Parameter.empty) for p in parameters)
    return f"{name}{inspect.Signature(list(plain))}"
