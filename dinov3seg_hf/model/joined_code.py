# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Joins the modules of this folder into the few files that a checkpoint carries, because each file is a download.

The text of a module stays as it is, except that its imports move to the top of the file. transformers executes a file
again if another file imported it before it is asked for, and then its classes exist twice. So what several files need
is in a file that is never asked for, and the pipeline is in the file of the model.
"""

import ast
import builtins
import re
import symtable
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from .checks import quoted

# Each file that transformers asks for, and its modules. Other modules join the only file that needs them.
ENTRY_POINTS = {
    "configuration_dinov3seg": ("configuration_dinov3seg",),
    "processing_dinov3seg": (
        "image_processing_dinov3seg",
        "image_processing_pil_dinov3seg",
        "processing_dinov3seg",
    ),
    "modeling_dinov3seg": ("modeling_dinov3seg", "pipeline"),
}

SHARED = "shared_dinov3seg"  # what several files need

LINE_LENGTH = 120

HEADER = '''\
# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Modules of dinov3seg_hf in one file, so that less is downloaded. The package joined them: change them there."""
'''


class _Module:
    """A module of the folder, and what is needed to join it to others.

    Attributes:
        relative: Its `from .name import X`, those in functions too.
        moved: The statements at its top level that are no part of its body: imports and `__all__`.
        imports: The imports among `moved`, and `relative`.
        exported: The names in `__all__`.
    """

    def __init__(self, path: Path):
        self.name = path.stem
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.relative = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom) and node.level]
        self.moved: list[ast.stmt] = []
        self.imports: list[ast.Import | ast.ImportFrom] = list(self.relative)
        self.exported: list[str] = []
        for statement in self.tree.body:
            nodes: list[ast.stmt] = [statement]
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                # moves as well: transformers requires what is imported for types alone
                nodes = [*statement.body, *statement.orelse]
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                self.exported = ast.literal_eval(statement.value)
                self.moved.append(statement)
            imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
            if len(imports) == len(nodes):
                self.imports += [node for node in imports if node not in self.relative]
                self.moved.append(statement)

    def needs(self, executed: bool = False) -> set[str]:
        """The modules that this module imports, or only those that it imports when it is executed."""
        return {str(node.module) for node in self.relative if not executed or node in self.tree.body}

    def defined(self) -> set[str]:
        """The names that the module defines at its top level."""
        symbols = symtable.symtable(self.text, self.name, "exec").get_symbols()
        imported = {alias.asname or alias.name.partition(".")[0] for node in self.imports for alias in node.names}
        return {symbol.get_name() for symbol in symbols if symbol.is_assigned()} - imported - {"__all__"}

    def body(self) -> str:
        """The text from the docstring on, without what moves."""
        lines: list[str | None] = list(self.text.splitlines())
        for node in (*self.moved, *self.relative):
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [None] * (end - node.lineno + 1)
        start, end = self.tree.body[0].lineno - 1, self.tree.body[0].end_lineno or 0
        docstring = "\n".join(self.text.splitlines()[start:end])
        kept = "\n".join(line for line in lines[end:] if line is not None).strip()
        return f"{docstring}\n\n\n{kept}\n"


@cache
def joined_code() -> dict[str, str]:
    """Returns the text of each file by its name, `"modeling_dinov3seg.py"`; see `join_modules`."""
    return join_modules(Path(__file__).parent, ENTRY_POINTS)


def join_modules(folder: Path, entry_points: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Joins the modules of a folder. The same modules always give the same text.

    Args:
        folder: The folder with the modules.
        entry_points: The names, without `.py`, of the files that are asked for, and the modules that each stands for.

    Returns:
        The text of each file by its name. The last file is `SHARED`, if several files need a module.

    Raises:
        ValueError: If modules of one file give two things the same name, hide a name of Python, or rename what they
            import from each other; or if modules or files import each other in a circle.
    """
    modules = {path.stem: _Module(path) for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}
    files = _file_of_each(modules, entry_points)
    order = _in_order({name: module.needs(executed=True) for name, module in modules.items()})
    joined = {}
    for file in sorted(set(files.values()), key=[*entry_points, SHARED].index):
        parts = [modules[name] for name in order if files.get(name) == file]
        joined[file] = _join(parts, file, files, exporting=entry_points.get(file, ()))
    _in_order({file: imported_files(text) for file, text in joined.items()})
    return {f"{file}.py": text for file, text in joined.items()}


def imported_files(text: str) -> set[str]:
    """Returns the names, without `.py`, of the neighbors that a file imports, as transformers finds them."""
    return set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE))


def _file_of_each(modules: Mapping[str, _Module], entry_points: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The file of each module that is needed."""
    users = defaultdict(list)
    for file, names in entry_points.items():
        found, waiting = set(), set(names)
        while waiting:
            found.add(name := waiting.pop())
            waiting |= modules[name].needs() - found
        for name in found:
            users[name].append(file)
    files = {name: found[0] if len(found) == 1 else SHARED for name, found in users.items()}
    return files | {name: file for file, names in entry_points.items() for name in names}


def _in_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Each name after those that it needs."""
    try:
        return list(TopologicalSorter({name: sorted(needed) for name, needed in needs.items()}).static_order())
    except CycleError as error:
        raise ValueError(
            f"{' and '.join(error.args[1])} import each other; expected one direction. Move what they share to another."
        ) from error


def _join(modules: list[_Module], file: str, files: Mapping[str, str], exporting: Sequence[str]) -> str:
    """The text of a file. `__all__` has the names of the modules `exporting`."""
    _refuse_clashes(modules, file)
    bodies = [f"# === {module.name}.py ".ljust(LINE_LENGTH, "=") + f"\n{module.body()}" for module in modules]
    code = "\n\n".join(bodies)
    exported = {f'"{name}"' for module in modules if module.name in exporting for name in module.exported}
    end = "\n\n" + _list("__all__ = ", "[]", exported) + "\n" if exported else ""
    return HEADER + _imports(modules, file, files, with_types="TYPE_CHECKING" in code) + "\n" + code + end


def _imports(modules: list[_Module], file: str, files: Mapping[str, str], with_types: bool) -> str:
    """The imports of all modules, sorted as ruff sorts them: the standard library, other libraries, neighbors."""
    plain: set[str] = set()
    names: dict[str, set[str]] = defaultdict(set)  # what is imported from "torch", or from ".shared_dinov3seg"
    for module in modules:
        for node in module.imports:
            aliases = {ast.unparse(alias) for alias in node.names}
            if isinstance(node, ast.Import):
                plain |= aliases
            elif node not in module.relative:
                names[str(node.module)] |= aliases if with_types else aliases - {"TYPE_CHECKING"}
            elif (source := files[str(node.module)]) != file:
                names[f".{source}"] |= aliases
    lines = [f"import {name}" for name in sorted(plain)]
    for source in sorted(names, key=str.lower):
        renamed = {name for name in names[source] if " as " in name}
        if together := names[source] - renamed:
            lines.append(_list(f"from {source} import ", "()", together))
        lines += [f"from {source} import {name}" for name in sorted(renamed)]
    groups: dict[int, list[str]] = defaultdict(list)
    for line in lines:
        library = re.split(r"[ .]", line)[1]
        groups[0 if library in sys.stdlib_module_names else 1 if library else 2].append(line)
    return "".join("\n" + "\n".join(groups[group]) + "\n" for group in sorted(groups))


def _list(start: str, brackets: str, names: set[str]) -> str:
    """A list in one line if it fits, otherwise one name a line. Imports need brackets for several lines only."""
    items = sorted(names, key=_rank)
    line = ", ".join(items)
    line = start + (line if brackets == "()" else f"{brackets[0]}{line}{brackets[1]}")
    if len(line) <= LINE_LENGTH:
        return line
    return "\n".join([start + brackets[0], *(f"    {item}," for item in items), brackets[1]])


def _rank(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then functions."""
    first = name.strip('"')
    return not first.isupper(), first[0].islower(), first


def _refuse_clashes(modules: list[_Module], file: str) -> None:
    origins = dict.fromkeys(dir(builtins), "Python")

    def note(name: str, origin: str) -> None:
        if origins.setdefault(name, origin) != origin:
            raise ValueError(
                f"{file}.py gets {quoted(name)} from {origins[name]!r} and from {origin!r}; expected one thing of each "
                "name, because it joins several modules. Rename one."
            )

    for module in modules:
        for name in module.defined():
            note(name, f"{module.name}.py")
        for node in module.imports:
            for alias in node.names:
                if node in module.relative and alias.asname:
                    raise ValueError(
                        f"{module.name}.py contains {ast.unparse(node)!r}; expected the same name, because modules are "
                        "joined. Import it without 'as'."
                    )
                if node in module.relative:
                    note(alias.name, f"{node.module}.py")
                elif isinstance(node, ast.ImportFrom):
                    note(alias.asname or alias.name, f"from {node.module} import {ast.unparse(alias)}")
                else:
                    note(alias.asname or alias.name.partition(".")[0], f"import {alias.asname and alias.name}")


__all__ = ["ENTRY_POINTS", "SHARED", "imported_files", "join_modules", "joined_code"]
