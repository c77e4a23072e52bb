"""Where the checkout is, whoever asks, and its scripts as modules."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def script_module(name: str) -> ModuleType:
    """A Python script whose name has no ending, without a compiled file beside it; it finds what is beside it."""
    loader = SourceFileLoader(f"scripts_{name}", str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(ROOT / "scripts"))  # as Python does when it runs one
    sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
        sys.dont_write_bytecode = kept
    return module
