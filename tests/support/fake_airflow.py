"""The few names of Airflow that the operators use, for an environment without Airflow.

The real ones are tried by `scripts/test-airflow`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar


class AirflowFailException(Exception):  # noqa: N818  # Airflow's name
    pass


class AirflowSkipException(Exception):  # noqa: N818  # likewise
    pass


class AirflowTaskTimeout(BaseException):  # likewise
    pass


class BaseOperator:
    """Takes arguments as Airflow's does: those that its own `__init__` names, and no others."""

    template_fields: ClassVar[Any] = ()
    do_xcom_push = True

    def __init__(
        self, *, task_id: str, retries: int = 0, outlets: Any = None, default_args: Any = None,
        params: Any = None, execution_timeout: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        if kwargs:
            raise TypeError(f"Invalid arguments were passed: {kwargs}")
        self.task_id, self.retries, self.outlets = task_id, retries, outlets or []
        self.log = logging.getLogger("airflow.task.operators")

    def __init_subclass__(cls) -> None:
        # As Airflow's metaclass: default_args fill in what a signature names.
        if "__init__" not in vars(cls):
            return
        init, names = cls.__init__, set(inspect.signature(cls.__init__).parameters)

        def with_defaults(self: Any, **arguments: Any) -> None:
            defaults = arguments.pop("default_args", None) or {}
            init(self, **{n: v for n, v in defaults.items() if n in names}, **arguments)

        cls.names = names  # type: ignore[attr-defined]  # what partial and expand accept
        cls.__init__ = with_defaults  # type: ignore[assignment]  # likewise

    @classmethod
    def partial(cls, **arguments: Any) -> Partial:
        return Partial(cls, arguments)


class Partial:
    """An operator without the arguments that `expand` gives, one for each mapped task."""

    def __init__(self, kind: Any, arguments: dict[str, Any]) -> None:
        assert arguments.keys() <= kind.names | set(inspect.signature(BaseOperator).parameters)
        self._kind, self._arguments = kind, arguments

    def expand(self, **several: Any) -> Mapped:
        ((name, values),) = several.items()
        assert name in self._kind.names
        return Mapped(self._kind(**self._arguments, **{name: value}) for value in values)


class Mapped(list[Any]):
    """The mapped tasks of a step."""

    def __rshift__(self, other: Any) -> Any:
        return other


class DAG:
    """Takes what a file of a DAG says of it."""

    def __init__(self, dag_id: str, *, schedule: None, params: dict[str, Any]) -> None:
        self.dag_id = dag_id

    def __enter__(self) -> DAG:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def task(function: Any) -> Any:
    """The decorator, whose result is called with templates."""
    return functools.partial(functools.partial, function)


class Asset:
    def __init__(self, uri: str) -> None:
        self.uri = uri


class AssetAlias:
    def __init__(self, name: str) -> None:
        self.name = name


class AssetRef:
    pass


class OutletEvent:
    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}
        self.added: list[tuple[str, dict[str, Any]]] = []

    def add(self, asset: Asset, extra: dict[str, Any]) -> None:
        self.added.append((asset.uri, extra))


@contextmanager
def installed() -> Iterator[None]:
    """Have `import airflow` find these."""
    modules = {
        name: ModuleType(name)
        for name in ("airflow", "airflow.sdk", "airflow.sdk.exceptions",
                     "airflow.sdk.definitions", "airflow.sdk.definitions.asset")
    }  # fmt: skip
    vars(modules["airflow.sdk"]).update(
        BaseOperator=BaseOperator, Asset=Asset, AssetAlias=AssetAlias, DAG=DAG, task=task
    )
    vars(modules["airflow.sdk.definitions.asset"]).update(AssetRef=AssetRef)
    vars(modules["airflow.sdk.exceptions"]).update(
        AirflowFailException=AirflowFailException, AirflowSkipException=AirflowSkipException
    )
    before = {name: sys.modules.get(name) for name in (*modules, _OPERATORS)}
    sys.modules.pop(_OPERATORS, None)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


_OPERATORS = "engine.integrations.airflow"
