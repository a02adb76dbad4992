"""The checks of this project, each a session: ``nox -s tests``, ``nox -s demo``, ``nox -s lint``."""

import sys
from collections import Counter

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
WITH_CLIENTS = ".[pika,aio-pika]"
DECIDING = "*/otel_waybill/core/*,*/otel_waybill/resilience/*"
"""Where decisions are made, and so where every branch is to be covered."""
MATRIX = {
    "oldest": ("pika==1.2.*", "aio-pika==9.0.*", "wrapt==1.14.*", "opentelemetry-api==1.34.*"),
    "older": ("pika==1.3.*", "aio-pika==9.6.*", "wrapt==1.*"),
    "newest": (),
}
"""What the ranges of `pyproject.toml` allow; `nox -s matrix` runs what is installed of the Pythons."""
BENCHMARKS = ("breakers", "overhead", "policies", "retries")
FAIL_UNDER = 100
"""Percent of `DECIDING` that a full run of the tests has to cover."""
KILLED_UNDER = 99
"""Percent of the mutants that the unit tests of the core have to kill; docs/quality.md explains the rest."""

if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts nox chooses its Python
    sys.exit(f"otel-waybill needs Python 3.11 or newer, and nox runs on {sys.version.split()[0]}")


def _group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


def _score(results: str) -> float:
    """Print the table of docs/quality.md, and return the percentage of mutants that were killed."""
    made, killed = Counter[str](), Counter[str]()
    for line in results.splitlines():
        mutant, _, end = line.strip().rpartition(": ")
        module = mutant.partition(".x")[0].rpartition(".")[2]
        made[module] += 1
        killed[module] += end in {"killed", "timeout"}  # one that never ends would be noticed
    for module, count in sorted(made.items()):
        print(f"| `{module}` | {count} | {killed[module]} | {count - killed[module]} |")  # noqa: T201 - to be read
    return 100 * killed.total() / made.total()


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against one real broker; arguments after ``--`` go to pytest."""
    session.install(WITH_CLIENTS, *_group("tests"))
    if session.posargs:  # a part of the tests covers a part of the code
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "erase")
    # Most of them wait for the broker, which they share: more of them at once than there are cores.
    parallel = "coverage", "run", "-m", "pytest", "-n", "4"
    session.run("python", "-m", "otel_waybill.testing.broker", "--", *parallel)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--skip-covered", f"--include={DECIDING}", f"--fail-under={FAIL_UNDER}")


@nox.session
def crash(session: nox.Session) -> None:
    """Break consumers and brokers of our own at every step; arguments after ``--`` go to pytest."""
    session.install(WITH_CLIENTS, *_group("tests"))
    session.run("pytest", "tests/crash", "--timeout", "300", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Run at full rate for ten minutes while things break; ``--seconds`` after ``--`` is another time."""
    session.install(WITH_CLIENTS, *_group("tests"))
    session.run("python", "-m", "crash.soak", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the core in thousands of small ways and see who notices; names of mutants may follow ``--``."""
    session.install(WITH_CLIENTS, *_group("mutants"))
    session.run("mutmut", "run", *session.posargs)
    results = session.run("mutmut", "results", "--all", "true", silent=True)
    score = _score(str(results))
    session.log(f'killed {score:.1f} %; "mutmut results" lists the rest, "mutmut show" shows one')
    if score < KILLED_UNDER and not session.posargs:
        session.error(f"the tests have to kill {KILLED_UNDER} % of all mutants")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo; arguments after ``--`` go to it."""
    session.install(WITH_CLIENTS, *_group("demo"))
    session.run("python", "docs/demo", *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
@nox.parametrize("versions", list(MATRIX.values()), ids=list(MATRIX))
def matrix(session: nox.Session, versions: tuple[str, ...]) -> None:
    """Run the tests with the oldest, older and newest of what we build on."""
    session.install(WITH_CLIENTS, *versions, *_group("tests"))
    session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what everything costs, in about four minutes; arguments after ``--`` name some of it."""
    session.install(WITH_CLIENTS, *_group("bench"))
    for name in session.posargs or BENCHMARKS:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, of this file as well."""
    session.install(WITH_CLIENTS, *_group("types"), "nox")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point down; the clients are there because the rules name them."""
    session.install(WITH_CLIENTS, *_group("imports"))
    session.run("lint-imports")
