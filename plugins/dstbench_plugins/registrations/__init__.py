"""Ways to register what is here, by name and by string, so that listing imports nothing."""

from __future__ import annotations

from typing import Any, Protocol

from dstbench.hookspecs import Register

ROOT = __name__.partition(".")[0]


class Add(Protocol):
    """``Register`` with a target below a package, and metadata or an alias's parameters."""

    def __call__(self, name: str, target: str, summary: str, **more: Any) -> None:
        """Register ``package.target``."""
        ...


def below(register: Register, package: str, **common: Any) -> Add:
    """``register`` for targets in modules of one package here, with the metadata that all of them have."""

    def add(name: str, target: str, summary: str, **metadata: Any) -> None:
        register(name, f"{ROOT}.{package}.{target}", summary=summary, **common, **metadata)

    return add


def cited(paper: str) -> str:
    """Where its BibTeX stands."""
    return f"{ROOT}.references:{paper}"


def aliases(add: Add) -> Add:
    """``add`` for names of a target with some of its parameters set."""
    return lambda name, target, summary, **parameters: add(name, target, summary, parameters=parameters)
