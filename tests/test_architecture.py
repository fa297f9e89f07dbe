"""What keeps the house in shape: who may import whom, what a fresh import loads, and what no file may contain."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS: dict[str, set[str]] = {
    "kernels": set(),
    "proto": set(),
    "models": set(),
    "planner": {"models"},
    "worker": {"models", "kernels", "proto"},
    "coordinator": {"planner", "models", "proto"},
    "deploy": {"planner", "models", "proto", "kernels", "worker", "coordinator"},
}
OTHER_FOLDERS = {"tests", "bench", "docs"}
MADE_BY_TOOLS = {"build", "dist"}
GENERATED = {"cluster_pb2.py", "cluster_pb2.pyi", "cluster_pb2_grpc.py"}
LONGEST_FILE = 500
HEAVY = ("torch", "ray", "grpc")


def sources(*folders: str) -> list[Path]:
    """The Python files of some folders, without the generated ones."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if path.name not in GENERATED]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every imported module of a file, wherever the import stands: in a function, or under TYPE_CHECKING.

    `from potluck import planner` counts as potluck.planner, and relative imports are resolved.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def package_of(path: Path) -> str:
    return ".".join(["potluck", *path.relative_to(ROOT).parts[:-1]])


def rooms_imported(source: str, package: str) -> set[str]:
    """The rooms that a source imports, other than its own."""
    modules = {module for _, module in imported(ast.parse(source), package)}
    rooms = {module.split(".")[1] for module in modules if module.startswith("potluck.")}
    return (rooms & FLOORS.keys()) - {package.split(".")[1]}


# The test's own eyes first: a checker that sees nothing would let everything pass.
@pytest.mark.parametrize(
    "source",
    [
        "import potluck.worker.shard",
        "from potluck.worker import shard",
        "from potluck import worker",
        "def late():\n    from potluck.worker.shard import Shard",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from potluck.worker.shard import Shard",
        "from ..worker import shard",
        "from .. import worker",
        "import importlib\nimportlib.import_module('potluck.worker')",
    ],
)
def test_the_checker_sees_every_kind_of_import(source: str) -> None:
    assert rooms_imported(source, "potluck.planner") == {"worker"}


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_point_down_the_floors(folder: str) -> None:
    paths = sources(folder)
    assert paths, f"{folder}/ has no sources"
    wrong = {
        name_of(path): sorted(up)
        for path in paths
        if (up := rooms_imported(path.read_text("utf-8"), package_of(path)) - FLOORS[folder])
    }
    assert not wrong, f"{folder}/ may import only {sorted(FLOORS[folder]) or 'itself'}: {wrong}"


@pytest.mark.parametrize("name", ["proto", "kernels"])
def test_our_rooms_are_not_imported_by_their_bare_names(name: str) -> None:
    wrong = [
        f"{name_of(path)}:{line}"
        for path in sources(*FLOORS, "tests", "bench")
        for line, module in imported(parsed(path), package_of(path))
        if module.split(".")[0] == name
    ]
    assert not wrong, f"write potluck.{name}: {wrong}"


def fresh(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_planner_loads_neither_torch_nor_ray_nor_grpc() -> None:
    modules = [
        ".".join(["potluck", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        for path in sources("planner")
    ]
    loads = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [other for other in {HEAVY} if other in sys.modules]\n"
        "    if heavy:\n"
        "        sys.exit(f'importing {name} loads {heavy}')\n"
    )
    fresh(loads, *modules)


@pytest.mark.parametrize("module", ["potluck.models.spec", "potluck.models.roles", "potluck.models.checkpoint"])
def test_describing_a_model_never_loads_torch(module: str) -> None:
    assert fresh(f"import sys, {module}\nprint('torch' in sys.modules)") == "False"


def test_only_the_gpu_kernels_load_triton() -> None:
    """A machine without Triton or a GPU runs everything else; who launches kernels imports them where it does."""
    modules = [
        ".".join(["potluck", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        for path in sources("kernels", "worker")
        if "gpu" not in path.relative_to(ROOT).parts and path.stem != "__main__"
    ]
    loads = (
        "import sys, importlib\n"
        "sys.modules['triton'] = None\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if any(other.startswith('potluck.kernels.gpu') for other in sys.modules):\n"
        "        sys.exit(f'importing {name} loads the GPU kernels')\n"
        "print(len(sys.argv))"
    )
    assert "potluck.worker.node" in modules
    assert fresh(loads, *modules) == str(len(modules) + 1)


@pytest.mark.parametrize("name", ["proto", "kernels"])
def test_a_foreign_package_of_the_same_name_wins(name: str, tmp_path: Path) -> None:
    """From the repository's root, where `python -m pytest` puts our folders in front, as late as the path's end."""
    assert not (ROOT / name / "__init__.py").exists(), f"{name}/ must stay a namespace, see docs/architecture.md"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("FOREIGN = True\n")
    file = fresh(f"import sys\nsys.path.append({str(tmp_path)!r})\nimport {name}\nprint({name}.__file__)")
    assert file.endswith("__init__.py") and not Path(file).is_relative_to(ROOT / name)
    ours = fresh(f"import potluck.{name} as ours\nprint(list(ours.__path__)[0])")
    assert Path(ours).resolve() == ROOT / name


def test_the_installed_proto_is_proto_plus() -> None:
    pytest.importorskip("google.api_core", reason="ray[default] brings proto-plus; it is not installed here")
    assert "site-packages" in fresh("import proto\nprint(proto.__file__ or '')")


def test_the_stubs_are_those_of_cluster_proto(tmp_path: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed (make setup-dev)")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Ipotluck/proto=proto", *outputs]
    done = subprocess.run(
        [*command, "potluck/proto/cluster.proto"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in sorted(GENERATED):
        made = (tmp_path / "potluck" / "proto" / name).read_text("utf-8")
        assert made == (ROOT / "proto" / name).read_text("utf-8"), f"proto/{name} is out of date: run make stubs"


def test_no_file_is_long() -> None:
    long = {
        name_of(path): lines
        for path in sources(*FLOORS, "tests", "bench")
        if (lines := len(path.read_text("utf-8").splitlines())) > LONGEST_FILE
    }
    assert not long, f"split these at a noun: {long}"


def environment_reads(tree: ast.AST) -> list[int]:
    """Lines that touch the process's environment, through `os` or names taken from it."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_os(node, names)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for alias in node.names if alias.name in names]
    return lines


def _is_os(node: ast.Attribute, names: set[str]) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in names


def test_the_environment_is_read_in_one_place() -> None:
    assert environment_reads(ast.parse("import os\nos.environ['A']")) == [2]
    assert environment_reads(ast.parse("from os import getenv")) == [1]
    wrong = [
        f"{name_of(path)}:{line}"
        for path in sources(*FLOORS)
        if name_of(path) != "deploy/settings.py"
        for line in environment_reads(parsed(path))
    ]
    assert not wrong, f"pass it as a parameter, read it in deploy/settings.py: {wrong}"


PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def unpickles(tree: ast.AST, package: str) -> list[int]:
    """Lines that import a pickle, or load one through torch or numpy."""
    lines = [line for line, module in imported(tree, package) if module.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            lines.append(node.lineno)
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "torch"
            and {a.name for a in node.names} & {"load", "save"}
        ):
            lines.append(node.lineno)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            lines.append(node.value.lineno)
    return lines


def test_nothing_is_pickled() -> None:
    assert unpickles(ast.parse("import pickle"), "potluck.models") == [1]
    assert unpickles(ast.parse("import torch\ntorch.load('x')"), "potluck.models") == [2]
    wrong = [
        f"{name_of(path)}:{line}"
        for path in sources(*FLOORS, "bench")
        for line in unpickles(parsed(path), package_of(path))
    ]
    assert not wrong, f"a pickle runs code of whoever wrote it: {wrong}"


def test_there_are_no_other_folders() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    extra = {name for name in folders - MADE_BY_TOOLS - OTHER_FOLDERS - FLOORS.keys() if not name.endswith(".egg-info")}
    assert not extra, f"a new top-level folder needs a floor in docs/architecture.md: {sorted(extra)}"
    assert folders >= FLOORS.keys()


def test_every_package_is_installed_and_typed() -> None:
    listed = set(re.findall(r'^    "(potluck\.[a-z.]+)",$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE))
    there = {package_of(path) for path in sources(*FLOORS)}
    assert listed == there, "pyproject.toml: packages"
    links = {path.name for path in (ROOT / ".types" / "potluck").iterdir()}
    assert links == set(FLOORS), ".types/potluck needs one link per room"
