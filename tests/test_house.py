"""The house keeps its rules: rooms, sizes, imports, names, and docstrings that describe arrays."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "septum"
MOST_FILES = 20
MOST_LINES = 400
MOST_FUNCTION_LINES, MOST_CODE_LINES = 65, 60
MOST_PARAMETERS = 7
LARGER_FUNCTIONS = {
    "api.train": "one keyword for each setting, so that editors complete and document them",
    "api.predict": "one keyword for each setting, as train",
}
WIDER_FUNCTIONS = {
    "api.train": "one keyword for each setting, so that editors complete and document them",
    "api.predict": "one keyword for each setting, as train",
    "cpu._microkernels_backward.pass_to_largest": "as transform_out",
    "cpu._microkernels.transform_out": "addresses and strides of a microkernel, beside numba's typing context",
    "io.zarr_write.create_zarr": "one keyword for each property of the image, most of them optional",
}
ARRAY = re.compile(r"\b(NDArray|ndarray|ArrayLike|Tensor)\b")
SHAPE = re.compile(r"``\([^`]*\)|\(\*?[A-Z0-9][^()]*\)|``\[[^`]*\]|scalar|same shape|shape of|sides of", re.DOTALL)
DTYPE = re.compile(
    r"\b(u?int(8|16|32|64)|u?intp|float(16|32|64)?|floats?|bfloat16|bool(eans?)?|integers?|RGB|dtype|types?|complex64)\b"
)
RANGE = re.compile(
    r"\d\s*(\.\.|to)\s*-?\d|\d\.\.[A-Z]|[<>]=?|\bids?\b|background|probabilit|intensit|any (real |finite )?values?"
    r"|True|indices|index|normalized|\[0, 1|non-negative|positive|rising|\bpx\b|pixels?\b|labels?\b|class(es)?\b|count"
    r"|logits?|gradients?|any range|unbounded|finite|standardized|zeros?\b|coordinates|weights?|um\b|of the same"
    r"|displacement|bits\b|bytes\b|scores?|distances?"
)


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module by its dotted name below ``septum``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").strip(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def rooms() -> list[str]:
    """Return the rooms, and the rooms in them, by their dotted names."""
    return sorted(".".join(p.parent.relative_to(SOURCE).parts) for p in SOURCE.rglob("*/__init__.py"))


def imports(name: str) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each import from Septum, imports for types and inside functions included."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "septum":
            base = (node.module or "").removeprefix("septum").strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                yield (inner, "") if inner in modules() else (base, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "septum":
                    yield alias.name.removeprefix("septum").strip("."), ""


@pytest.mark.parametrize("room", ["", *rooms()])
def test_a_room_holds_at_most_twenty_files(room: str) -> None:
    files = [p for p in (SOURCE / room.replace(".", "/")).glob("*.py") if p.name != "__init__.py"]
    assert len(files) <= MOST_FILES, sorted(p.name for p in files)


@pytest.mark.parametrize("room", ["", *rooms()])
def test_a_module_has_at_most_400_lines(room: str) -> None:
    lines = {
        p.name: len(p.read_text(encoding="utf-8").splitlines()) for p in (SOURCE / room.replace(".", "/")).glob("*.py")
    }
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def functions(name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function and method of a module with its dotted name."""

    def visit(node: ast.AST, place: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for inner in ast.iter_child_nodes(node):
            named = isinstance(inner, ast.FunctionDef | ast.ClassDef)
            below = f"{place}.{inner.name}" if named else place
            if isinstance(inner, ast.FunctionDef):
                yield below, inner
            yield from visit(inner, below)

    return visit(modules()[name], name)


def in_room(room: str) -> list[str]:
    return [name for name in modules() if name.rpartition(".")[0] == room or (room and name == room)]


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("room", ["", *rooms()])
def test_a_function_has_at_most_60_lines_of_code(room: str) -> None:
    wrong = {}
    for name in in_room(room):
        for function, node in functions(name):
            docstring = lines_of(node.body[0]) if ast.get_docstring(node) else 0
            too_long = lines_of(node) > MOST_FUNCTION_LINES or lines_of(node) - docstring > MOST_CODE_LINES
            if too_long and function not in LARGER_FUNCTIONS:
                wrong[function] = lines_of(node)
    assert not wrong


@pytest.mark.parametrize("room", ["", *rooms()])
def test_a_function_has_at_most_7_parameters(room: str) -> None:
    wrong = {}
    for name in in_room(room):
        for function, node in functions(name):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if count > MOST_PARAMETERS and function not in WIDER_FUNCTIONS:
                wrong[function] = count
    assert not wrong


def test_functions_that_may_be_larger_exist() -> None:
    known = {function for name in modules() for function, _ in functions(name)}
    assert known >= {*LARGER_FUNCTIONS, *WIDER_FUNCTIONS}


def test_imports_have_no_circle() -> None:
    edges = {name: {module for module, _ in imports(name) if module != name} for name in modules()}
    # `import septum` reads the version; lazy imports of the package itself form no circle of its modules.
    edges[""] = set()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " > ".join((*path[path.index(name) :], name))
        if name not in done:
            for module in sorted(edges.get(name, ())):
                visit(module, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("room", ["", *rooms()])
def test_no_private_name_is_imported_from_another_room(room: str) -> None:
    wrong = []
    for name in modules():
        if name.rpartition(".")[0] != room and name != room:
            continue
        for module, imported in imports(name):
            private = imported.startswith("_") and not imported.startswith("__")
            elsewhere = module.rpartition(".")[0] != room and module != room
            if elsewhere and (private or module.rpartition(".")[2].startswith("_")):
                wrong.append(f"{name}: {module}.{imported}")
    assert not wrong


def test_the_cpu_engine_has_two_doors() -> None:
    doors = {"cpu.inference", "cpu.training"}
    used = {module for name in modules() if not name.startswith("cpu") for module, _ in imports(name)}
    assert {module for module in used if module.startswith("cpu")} <= doors


def test_no_public_class_name_is_defined_twice() -> None:
    places = defaultdict(list)
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def sections(docstring: str) -> dict[str, str]:
    """Split a numpydoc docstring at its underlined headings; text before the first one is under ``""``."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", docstring, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def missing_facts(node: ast.FunctionDef) -> list[str]:
    """Return the facts on arrays, parameters or results, that the docstring of a function does not state."""
    docstring = ast.get_docstring(node) or ""
    split = sections(docstring)
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    takes = [a.arg for a in arguments if a.annotation is not None and ARRAY.search(ast.unparse(a.annotation))]
    gives = node.returns is not None and ARRAY.search(ast.unparse(node.returns))
    texts = {}
    for argument in takes:
        entry = re.search(
            rf"^(?:\w+, )*{argument}(?:, \w+)*\b[^\n]*\n((?:[ ]+[^\n]*\n?|\n)*)",
            split.get("Parameters", ""),
            re.MULTILINE,
        )
        texts[argument] = (entry.group(0) if entry else "") or split[""]
    if gives:
        texts["the result"] = split.get("Returns") or split.get("Yields") or split[""]
    missing = []
    for array, text in texts.items():
        for fact, pattern in (("shape", SHAPE), ("dtype", DTYPE), ("range", RANGE)):
            if not pattern.search(text):
                missing.append(f"{array}: {fact}")
    return missing


@pytest.mark.parametrize("room", ["", *rooms()])
def test_docstrings_state_shape_axes_dtype_and_range_of_arrays(room: str) -> None:
    wrong = {}
    for name in in_room(room):
        for function, node in public_functions(modules()[name]):
            if missing := missing_facts(node):
                wrong[f"{name}.{function}"] = missing
    assert not wrong, "\n".join(f"{name}: {', '.join(missing)}" for name, missing in wrong.items())
