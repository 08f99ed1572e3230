"""Dependencies say the truth: what is imported is declared, what is declared is imported or says why not."""

import re
import sys
import tomllib
from collections import defaultdict

import pytest
from packaging.requirements import Requirement

from tests.support.distributions import normalised, owners
from tests.support.imports import imports_below
from tests.support.paths import ROOT

OURS = {"components", "pipelines", "tests", "install"}


def declared(extra: str = "") -> set[str]:
    """Return the distributions that pyproject.toml names: those that are always needed, or those of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {normalised(Requirement(line).name) for line in lines}


def explained() -> set[str]:
    """Return the distributions that pyproject.toml names with a comment behind: why they are there without an import."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return {normalised(name) for name in re.findall(r'^ +"([\w.-]+)[^"]*", +# \S', text, re.MULTILINE)}


def imported(*packages: str) -> dict[str, set[str]]:
    """Return the distributions that our modules import, by name (several: any of them) to who does."""
    found = defaultdict(set)
    for item in imports_below(ROOT, *packages):
        top = item.imported.split(".")[0]
        if top not in sys.stdlib_module_names | OURS:
            names = owners(item.imported)
            assert names, (
                f"{item.importer}, line {item.line}: {item.imported} is not installed: pip install -e '.[dev]'"
            )
            found[" or ".join(sorted(names))].add(item.importer)
    return found


def undeclared(found: dict[str, set[str]], known: set[str]) -> dict[str, set[str]]:
    """Return what is imported and not declared."""
    return {names: importers for names, importers in found.items() if not known & set(names.split(" or "))}


def unused(found: dict[str, set[str]], known: set[str]) -> set[str]:
    """Return what is declared, not imported, and not explained."""
    return known - {name for names in found for name in names.split(" or ")} - explained()


def test_product_imports_what_it_declares_and_nothing_else() -> None:
    found = imported("components", "pipelines")
    assert not undeclared(found, declared())
    assert not unused(found, declared())


def test_tests_import_what_the_project_and_its_dev_extra_declare() -> None:
    found = imported("tests")
    assert not undeclared(found, declared() | declared("dev"))
    assert not unused(found, declared("dev"))


def test_what_the_hub_extra_brings_says_why() -> None:
    assert declared("hub") <= explained()


def test_nothing_is_declared_twice() -> None:
    assert not declared() & declared("dev")


def test_constraints_pin_what_is_declared_to_a_version_that_fits() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    versions = {normalised(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["dev"], *extras["hub"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[normalised(requirement.name)]), line


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("PIL.Image", {"pillow"}),
        ("yaml", {"pyyaml"}),
        ("megatron.core.parallel_state", {"megatron-core"}),
        ("megatron.energon.Sample", {"megatron-energon"}),
        ("kfp.dsl.component", {"kfp"}),
        ("kfp.kubernetes", {"kfp-kubernetes"}),
        ("no_such_module", set()),
    ],
)
def test_import_leads_to_its_distribution(module: str, expected: set[str]) -> None:
    assert owners(module) == expected
