# SPDX-License-Identifier: Apache-2.0
"""Reads the package as text for the properties of test_layers.py: modules, imports, circles, private reads, sizes.

A tree maps the full name of a module to its source. Imports at any depth count, also lazy ones and those under
TYPE_CHECKING.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Private names of torch's own classes.
TORCH = {"_buffers", "_initial_step", "_last_lr", "_LRScheduler", "_opt_called", "_parameters", "_schedulers"}
TORCH |= {"_step_count", "_values"}


def package_tree():
    """The modules of the package. The Triton kernels and benchmarks lie beside it and are installed into it."""
    tree = {}
    for folder, prefix in (("fusedsched", ""), ("triton_kernels", "fusedsched"), ("benchmarks", "fusedsched")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [*filter(None, [prefix]), *path.relative_to(ROOT).with_suffix("").parts]
            tree[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return tree


def subpackage(module):
    """The part of the package that a module belongs to: its folder, or itself if it has none.

    >>> subpackage("fusedsched.optim.adam"), subpackage("fusedsched.monitor"), subpackage("fusedsched")
    ('optim', 'monitor', '')
    """
    return (module.split(".") + [""])[1]


def imported(module, tree):
    """The modules of the tree that a module imports."""
    package = module if any(other.startswith(f"{module}.") for other in tree) else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(tree[module])):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in tree)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                found.add(f"{start}.{alias.name}" if f"{start}.{alias.name}" in tree else start)
    return {name for name in found if name in tree and name != module}


def edges_of(tree):
    """(importing module, imported module)."""
    return {(module, other) for module in tree for other in imported(module, tree)}


def circular(edges):
    """The edges that lie on a circle: from whose end their beginning can be reached."""
    after = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for other in after.get(todo.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return seen

    reach = {module: reached(module) for module in after}
    return {(a, b) for a, b in edges if a in reach.get(b, ())}


def private_reads(tree):
    """(subpackage, name): private names that another part of the package defines and this one reads.

    A name that both define counts where it is read from something called an optimizer.
    """
    defined, reads = {}, set()
    for module, text in tree.items():
        for name in _definitions(ast.parse(text)):
            defined.setdefault(name, set()).add(subpackage(module))
    for module, text in tree.items():
        here = subpackage(module)
        for name, owner in _private_uses(ast.parse(text)):
            elsewhere = defined.get(name, set()) - {here} - TORCH
            of_optimizer = owner.rpartition(".")[2].lstrip("_") in ("optimizer", "opt") and "optim" in elsewhere
            if name not in TORCH and elsewhere and (here not in defined[name] or of_optimizer):
                reads.add((here, name))
    return reads


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def _definitions(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found = [node.name]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found = [node.attr] if ast.unparse(node.value) in ("self", "cls") else []
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        else:
            found = []
        yield from filter(is_private, found)


def _private_uses(tree):
    """(name, what it is read from)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.module or "") for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            name = node.args[1]
            if node.func.id in ("getattr", "hasattr", "setattr") and isinstance(name, ast.Constant):
                if is_private(str(name.value)):
                    yield name.value, ast.unparse(node.args[0])


def methods(tree):
    """Full name of a class -> the names of its methods, with those of all bases that the tree defines."""
    classes = {}
    for module, text in tree.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append((module, node))

    def of(module, node, seen):
        found = {part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))}
        for base in node.bases:
            for other, parent in classes.get(ast.unparse(base).rpartition(".")[2], ()):
                # Torch's class of the same name is no base of ours.
                if parent is not node and subpackage(other) == subpackage(module) and (other, parent.name) not in seen:
                    found |= of(other, parent, seen | {(other, parent.name)})
        return found

    return {f"{module}.{name}": of(module, node, set()) for name, all_ in classes.items() for module, node in all_}


def function_lengths(text):
    """Name -> lines of the code of a function, its docstring left out."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            said = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            found[node.name] = node.end_lineno - node.lineno + 1 - said
    return found


def c_function_lengths(text):
    """First line -> lines of a function of C++ that begins and ends at the left margin."""
    found, start = {}, None
    for at, line in enumerate(text.splitlines()):
        if line.startswith("}") and start is not None:
            found[start[1]] = at - start[0] + 1
            start = None
        elif start is None and re.match(r"(?!namespace|struct|class|enum|union|extern|template .*struct)\w.*\{$", line):
            start = at, line
    return found
