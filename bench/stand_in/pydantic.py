"""A stand-in for pydantic, for machines that have torch, transformers, peft and accelerate, and where nothing can be
installed.

The engine takes its settings as objects of `p2p_dist.config.study`. With this they are made as before and checked by no
one, which is enough for benchmarks, whose settings are written in code. `bench/gpu.sh` puts this folder on the path
where pydantic is missing.
"""

from collections.abc import Callable
from typing import Any, ClassVar, get_origin


class BaseModel:
    """Fields from annotations, values from keywords; dictionaries become the models that are annotated."""

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()

    def __init__(self, **values: Any) -> None:
        fields = self.fields()
        if unknown := values.keys() - fields.keys():
            raise TypeError(f"{type(self).__name__} has no {sorted(unknown)}")
        for name, kind in fields.items():
            value = values[name] if name in values else getattr(type(self), name)
            nested = isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict)
            object.__setattr__(self, name, kind(**value) if nested else value)

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Annotations of the class and those above it, but for class variables and private ones."""
        annotations = {
            name: kind for base in reversed(cls.__mro__) for name, kind in vars(base).get("__annotations__", {}).items()
        }
        return {
            name: kind
            for name, kind in annotations.items()
            if not name.startswith("_") and kind is not ClassVar and get_origin(kind) is not ClassVar
        }

    @classmethod
    def model_validate(cls, values: dict[str, Any]) -> Any:
        return cls(**values)

    def model_dump(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.fields()}
        return {name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in values.items()}

    def model_copy(self, update: dict[str, Any]) -> Any:
        return type(self)(**{**{name: getattr(self, name) for name in self.fields()}, **update})


class ValidationError(ValueError):
    """Never raised."""


def Field(**options: Any) -> Any:
    """The default of a field."""
    factory = options.get("default_factory")
    return factory() if factory else options.get("default")


def PrivateAttr(default: Any = None) -> Any:
    """The default of a private attribute."""
    return default


def BeforeValidator(_: Callable[[Any], Any], **__: Any) -> None:
    """Nothing is changed before it is not checked."""


def model_validator(**_: Any) -> Callable[[Any], Any]:
    """Checks stay methods that nobody calls."""
    return lambda method: method


class TypeAdapter:
    """Values of a type, checked by no one."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __class_getitem__(cls, kind: Any) -> Any:
        return cls

    def validate_python(self, value: Any) -> Any:
        return value


class InstanceOf:
    """Annotation of an instance, checked by no one."""

    def __class_getitem__(cls, kind: Any) -> Any:
        return kind


ConfigDict = dict
JsonValue = Any
field_validator = model_validator
