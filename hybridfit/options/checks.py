"""Check the user's arguments: an error names the argument, what was expected and what was given."""

from __future__ import annotations

import errno
import os
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np

from hybridfit.options.metadata import Description, describe, in_words, problem_with

T = TypeVar("T")
SHOWN = 60  # longest quotation of a value in an error, characters
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class _Unfit(Exception):
    """A value that is not of the expected kind."""


def check_fields(options: Any, where: str = "") -> None:
    """Check the fields of a frozen options dataclass against their annotations and metadata.

    Each value is converted to its plain form: NumPy numbers to Python's, paths to text, lists to
    tuples, and a single text to a tuple of one if several are allowed.

    Args:
        options: the dataclass; called from its ``__post_init__``.
        where: its section, which precedes the field's name in errors.

    Raises:
        ValueError: for the first field of a wrong type, or with a value outside its choices or
            bounds; says what was expected and what was given.
    """
    for one in describe(type(options)):
        label = f"{where}.{one.name}" if where else one.name
        object.__setattr__(
            options, one.name, _checked_field(label, getattr(options, one.name), one)
        )


def _checked_field(label: str, value: Any, one: Description) -> Any:
    """Return the value of a field in its plain form; check its kind, choices and bounds."""
    try:
        plain = _plain(value, one.kind)
        wanted = problem_with(plain, one.facts)
    except _Unfit:
        plain, wanted = value, in_words(one.facts) if one.facts.choices else expected(one.kind)
    if wanted:
        shown = f"'{plain}'" if isinstance(plain, str) else described(plain)
        hint = f"; {one.facts.hint}" if one.facts.hint else ""
        raise ValueError(f"{label} is {shown}, expected {wanted}{hint}")
    return plain


def checked(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` in its plain form if it is of ``kind``, else raise ValueError.

    Args:
        name: the argument's name, for the error.
        value: the value given.
        kind: a type, or an annotation such as ``tuple[float, float]`` or ``int | None``.
    """
    try:
        return _plain(value, kind)
    except _Unfit:
        raise ValueError(f"{name} is {described(value)}, expected {expected(kind)}") from None


def check_choice(name: str, value: Any, known: Sequence[str], hint: str = "") -> None:
    """Raise ValueError unless ``value`` is in ``known``."""
    if not (isinstance(value, str) and value in known):
        shown = f"'{value}'" if isinstance(value, str) else described(value)
        more = f"; {hint}" if hint else ""
        raise ValueError(f"{name} is {shown}, expected one of {', '.join(known)}{more}")


def or_default(name: str, value: T | None, cls: type[T]) -> T:
    """Return ``value``, or ``cls()`` for None; raise ValueError for an object of another class."""
    if value is None:
        return cls()
    if not isinstance(value, cls):
        raise ValueError(
            f"{name} is {described(value)}, expected {_article(cls.__name__)}, as in "
            f"{name}={cls.__name__}()"
        )
    return value


def comma_list(text: str) -> tuple[str, ...]:
    """Return the entries of a comma-separated list, stripped, without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def as_path(name: str, value: Any) -> Path:
    """Return a text or path as a path; raise ValueError for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} is {described(value)}, expected the path of a file or folder")
    path = Path(os.fsdecode(value))
    try:
        os.stat(path)
    except ValueError as error:  # such as for a null byte
        raise ValueError(f"{name} is {described(value)}, which is not a path: {error}") from error
    except OSError as error:  # the caller reports paths that do not exist or are locked
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            reason = os.strerror(error.errno)
            raise ValueError(
                f"{name} is {described(value)}, which is not a path: {reason}"
            ) from error
    return path


def described(value: Any) -> str:
    """Describe a value briefly: a short value itself, else its kind, shape or length."""
    if value is None or isinstance(value, bool | np.bool_ | Real):
        return f"{value}"
    if isinstance(value, str | bytes | os.PathLike):
        text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        kind = getattr(value, "dtype", None)
        return f"an array of shape {tuple(shape)}" + (f" and type {kind}" if kind else "")
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        kind = _article(type(value).__name__)
        if value and len(value) <= 4:
            # only plain content: other values may be long, or nested without end
            items = value.items() if isinstance(value, Mapping) else ((v,) for v in value)
            parts = [item for pair in items for item in pair]
            if all(isinstance(v, str | Real) for v in parts) and len(repr(value)) <= SHOWN:
                return f"{kind}, {value!r}"
        return f"{kind} of {len(value)}" if value else f"an empty {type(value).__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return _article(type(value).__name__)


def expected(kind: Any) -> str:
    """Describe an annotation in words."""
    if _is_union(kind):
        return " or ".join(expected(k) if k is not type(None) else "None" for k in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        word = expected(inner[0]).removeprefix("a ")
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list, each {expected(inner[0])}"
        return f"{len(inner)} values, each {word}"
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return "a mapping of names to values"
    return WORDS.get(kind) or _article(getattr(kind, "__name__", str(kind)))


def _plain(value: Any, kind: Any) -> Any:
    if kind is Any:
        return value
    if _is_union(kind):
        return _first(value, get_args(kind))
    origin = get_origin(kind)
    if origin is tuple:
        return _plain_tuple(value, get_args(kind))
    if isinstance(origin, type):
        kind = origin
    simple = {bool: _bool, int: _int, float: _float, str: _str}
    if kind in simple:
        return simple[kind](value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise _Unfit
    return value


def _first(value: Any, kinds: Sequence[Any]) -> Any:
    """Return the value as the first of several kinds that it matches."""
    for kind in kinds:
        try:
            return _plain(value, kind)
        except _Unfit:
            continue
    raise _Unfit


def _plain_tuple(value: Any, inner: Sequence[Any]) -> tuple[Any, ...]:
    repeated = len(inner) == 2 and inner[1] is Ellipsis
    if isinstance(value, str) and repeated and inner[0] is str:
        return (value,)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise _Unfit
    kinds = (inner[0],) * len(value) if repeated else inner
    if len(kinds) != len(value):
        raise _Unfit
    return tuple(_plain(v, kind) for v, kind in zip(value, kinds, strict=True))


def _scalar(value: Any) -> Any:
    """Return the number in a zero-dimensional array or tensor."""
    return value.item() if getattr(value, "shape", None) == () else value


def _bool(value: Any) -> bool:
    value = _scalar(value)
    if not isinstance(value, bool | np.bool_):
        raise _Unfit
    return bool(value)


def _int(value: Any) -> int:
    value = _scalar(value)
    if isinstance(value, bool | np.bool_):
        raise _Unfit
    if isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer()):
        return int(value)  # type: ignore[call-overload,no-any-return]
    raise _Unfit


def _float(value: Any) -> float:
    value = _scalar(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise _Unfit
    return value if type(value) is int else float(value)


def _str(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if not isinstance(value, str):
        raise _Unfit
    return str(value)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'AEIOUaeiou' else 'a'} {noun}"
