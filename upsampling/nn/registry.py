"""Every upsampler by name: `register` makes a layer known, `available` lists the known ones, `find` gives one."""

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import Any, Literal, TypeVar, get_args

import jax
from flax import nnx

from upsampling import _arguments
from upsampling._arguments import Numbers

Build = TypeVar("Build", bound=Callable[..., nnx.Module])

Family = Literal["interpolation", "convolution", "reassembly", "sampling", "own"]
"""The four families of the library, and "own" for what is none of them."""

_GIVEN = ("features", "scale", "rngs")
_METHODS: dict[str, "Method"] = {}
# What other libraries call it, as `_plain` has it.
_OTHER_NAMES = {
    "pixelshuffle": "sub_pixel_conv",
    "convtranspose": "transposed_conv",
    "linear": "bilinear",
    "trilinear": "bilinear",
    "cubic": "bicubic",
    "tricubic": "bicubic",
    "upsample": "bilinear",
    "upsampling": "bilinear",
    "unpool": "max_unpool",
    "fastguidedfilter": "guided_filter",
}


def _plain(name: str) -> str:
    """A name without what libraries write in different ways: ConvTranspose2d, Conv2DTranspose and conv_transpose."""
    return re.sub("[123]d|_", "", name.lower())


def _other_name(name: str) -> str | None:
    """What a name of another library, or another spelling, is here."""
    return _OTHER_NAMES.get(_plain(name)) or next((known for known in _METHODS if _plain(known) == _plain(name)), None)


class Upsampler(nnx.Module):
    """What every layer is: it maps `(*batch, *spatial, channels)` to `(*batch, *spatial * scale, channels)`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _arguments.hinted(cls.__init__)
        # NNX's metaclass would show (*args, **kwargs) in its place.
        cls.__signature__ = _signature(cls)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; layers that use no guide accept it all the same."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, x, guide=None).")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Method:
    """One entry of `available()`. Its `repr` shows the options with their defaults.

    Attributes:
      name: what `create` takes.
      family: `interpolation`, `convolution`, `reassembly`, `sampling` or `own`.
      paper: the source of the method.
      build: the layer's class, or a function that makes the layer; it takes `features`, `scale`, `rngs` and the options
        by keyword.
      uses_guide: whether the layer reads its second argument, a high-resolution guide.
      ties_encoder: whether the layer takes the kernel of an encoder's convolution as `kernel=`.
      needs_pooling: whether the layer needs an encoder that max-pools, whose map before the pooling is its guide.
      spatial_axes: the numbers of spatial axes that the method takes.
      variants: named sets of options other than the defaults, which are the authors'.
    """

    name: str
    family: Family
    paper: str
    build: Callable[..., nnx.Module]
    uses_guide: bool = False
    ties_encoder: bool = False
    needs_pooling: bool = False
    spatial_axes: tuple[int, ...] = (1, 2, 3)
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def signature(self) -> inspect.Signature:
        """That of `build`."""
        return _signature(self.build)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options with their defaults; `inspect.Parameter.empty` stands for one that must be given.

        Example:

        >>> import upsampling as up
        >>> dict(up.nn.available()["joint_bilateral"].options)
        {'size': None, 'guide_features': None, 'radius': 2, 'sigma_spatial': 0.5, 'sigma_range': 0.1}
        """
        parameters = self.signature.parameters.values()
        return MappingProxyType({p.name: p.default for p in parameters if p.name not in _GIVEN})

    @property
    def changes_channels(self) -> bool:
        """Whether the method maps channels and so takes `out_features`; the others keep the channels they are given."""
        return "out_features" in self.options

    def create(
        self, features: int, scale: Numbers = 2, *, rngs: nnx.Rngs, variant: str | None = None, **options: Any
    ) -> Upsampler:
        """Builds the layer; arguments and errors are those of `upsampling.nn.create`.

        Example:

        >>> import upsampling as up
        >>> from flax import nnx
        >>> chosen = [method for method in up.nn.available().values() if method.family == "interpolation"]
        >>> layers = [method.create(8, scale=4, rngs=nnx.Rngs(0)) for method in chosen]
        """
        features = _arguments.number("create", "features", features)
        settings = {**self._settings(variant), **options}
        known = self.options
        for option in options:
            if option not in known:
                raise TypeError(
                    f"create: {self.name!r} was given an option it does not have: {option!r}."
                    f"{_arguments.other_word(option, {*known, *_GIVEN, 'name'}) or _near(option, known)} "
                    f"It has: {', '.join(map(repr, known)) or 'none'}."
                )
        missing = [name for name, default in known.items() if default is inspect.Parameter.empty]
        if not settings.keys() >= set(missing):
            raise TypeError(f"create: {self.name!r} needs the options {missing}; got {sorted(settings)}.")
        # A size takes the place of the default scale.
        factor: Any = None if settings.get("size") is not None and scale == 2 else scale
        layer: Any = self.build(features=features, scale=factor, rngs=rngs, **settings)
        if not isinstance(layer, nnx.Module):
            raise TypeError(f"create: {self.name!r} must make a flax.nnx.Module; it made {type(layer).__name__}.")
        return layer  # pyright: ignore[reportReturnType]  (a module that is called like one)

    def _settings(self, variant: str | None) -> Mapping[str, Any]:
        if variant is None:
            return {}
        if not self.variants:
            raise ValueError(f"create: {self.name!r} has no variants; got variant={variant!r}.")
        return self.variants[_arguments.one_of("create", "variant", variant, self.variants)]

    def __repr__(self) -> str:
        plain = [
            p.replace(annotation=inspect.Parameter.empty, default=_Shown.of(p.default))
            for p in self.signature.parameters.values()
        ]
        variants = f"; variants: {', '.join(self.variants)}" if self.variants else ""
        return f"{self.name}{inspect.Signature(plain)}  # {self.family}; {self.paper}{variants}"


def register(
    name: str,
    *,
    family: Family,
    paper: str,
    uses_guide: bool = False,
    ties_encoder: bool = False,
    needs_pooling: bool = False,
    spatial_axes: Sequence[int] = (1, 2, 3),
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Build], Build]:
    """Registers a layer, or a function that makes one, under `name`; a decorator.

    `create`, `available`, the study, the benchmarks and the tests of all layers find what is registered:

        @up.nn.register("box_nearest", family="interpolation", paper="a toy")
        class BoxNearest(up.nn.Upsampler):
            def __init__(self, features, scale=2, *, radius=1, rngs):
                self.scale, self.radius = scale, radius

            def __call__(self, x, guide=None):
                return box_filter(up.nearest(x, scale=self.scale), self.radius)

    Args:
      name: what `create` takes: letters, digits and underscores. What is defined again under its name, as when a
        notebook's cell runs twice, takes the place of the former.
      family, paper, uses_guide, ties_encoder, needs_pooling, spatial_axes: as in `Method`.
      variants: names of other settings than the defaults, such as "small", and their options.

    Returns:
      The decorator; it returns what it is given.

    Raises:
      ValueError: a name that is taken or no identifier, an unknown family, numbers of axes other than 1, 2 and 3, or a
        variant with options that the layer lacks.
      TypeError: what is neither a subclass of `flax.nnx.Module` nor a function, or does not take `features`, `scale`,
        `rngs` and each of its options by keyword.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"register: name must be letters, digits and underscores, such as 'my_method'; got {name!r}.")
    _arguments.one_of("register", "family", family, get_args(Family))
    if not isinstance(paper, str) or not paper:
        raise ValueError(f"register: paper must name the source of {name!r}; got {paper!r}.")
    flags = {"uses_guide": uses_guide, "ties_encoder": ties_encoder, "needs_pooling": needs_pooling}
    flags = {flag: _arguments.flag("register", flag, given) for flag, given in flags.items()}
    axes = _arguments.per_axis("register", "spatial_axes", tuple(spatial_axes), None)
    if max(axes) > 3:
        raise ValueError(f"register: spatial_axes must be among 1, 2 and 3; got {axes}.")
    given = MappingProxyType({key: MappingProxyType(dict(options)) for key, options in (variants or {}).items()})

    def decorate(build: Build) -> Build:
        _check_build("register", name, build)
        method = Method(name, family, paper, build, spatial_axes=axes, variants=given, **flags)
        for variant, options in given.items():
            for option in options:
                _arguments.one_of("register", f"an option of variant {variant!r}", option, method.options)
        former = _METHODS.get(name)
        if former is not None and _place(former.build) != _place(build):
            raise ValueError(f"register: name={name!r} is taken by {'.'.join(_place(former.build))}.")
        _METHODS[name] = method
        return build

    return decorate


def available() -> Mapping[str, Method]:
    """The methods that `create` knows, by name, in order of family.

    Example:

    >>> import upsampling as up
    >>> up.nn.available()["sub_pixel_conv"].paper
    'Shi et al. 2016, arXiv:1609.05158'
    >>> up.nn.available()["max_unpool"]
    max_unpool(features, scale=2, *, rngs=None)  # convolution; Badrinarayanan et al. 2017, arXiv:1511.00561
    """
    order = get_args(Family)
    return MappingProxyType(dict(sorted(_METHODS.items(), key=lambda item: order.index(item[1].family))))


def find(name: str) -> Method:
    """The method called `name`: one of `available()`, or any layer that can be imported, as `"package.module:Class"`.

    Args:
      name: a registered name; or a module, a colon and the class in it, or the function that makes the layer. Its flags
        are those it is registered with, or else their defaults; its family is "own", its name the given one.

    Raises:
      ValueError: an unknown name (the nearest is offered), or a module or an attribute that there is not.
      TypeError: what is no layer, as in `register`.

    Example:

    >>> import upsampling as up
    >>> from flax import nnx
    >>> method = up.nn.find("upsampling.nn.guided:JBUStack")
    >>> method.family, method.options["radius"], type(method.create(8, scale=4, rngs=nnx.Rngs(0))).__name__
    ('own', 3, 'JBUStack')
    """
    return lookup("find", name)


def lookup(function: str, name: str) -> Method:
    """`find`, for errors that name `function`."""
    if isinstance(name, str) and name not in _METHODS and (here := _other_name(name)):
        raise ValueError(f"{function}: name={name!r} is not known. Here it is {here!r}.")
    if not isinstance(name, str) or ":" not in name:
        return _METHODS[_arguments.one_of(function, "name", name, _METHODS)]
    build = _imported(function, name)
    _check_build(function, name, build)
    registered = next((method for method in _METHODS.values() if method.build is build), None)
    if registered is None:
        return Method(name, "own", name, build)
    return dataclasses.replace(registered, name=name, family="own")


def _imported(function: str, name: str) -> Any:
    """What `"package.module:Class"` names."""
    path, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"{function}: name={name!r} must be like 'package.module:Class'.")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        # A module that is there, but misses one that it imports, says so itself.
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{function}: name={name!r} needs the module {error.name!r}, which is not on the path (sys.path)."
        ) from error
    if not hasattr(module, attribute):
        raise ValueError(f"{function}: name={name!r}: {path} has no {attribute!r}.{_near(attribute, vars(module))}")
    return getattr(module, attribute)


def _check_build(function: str, name: str, build: Any) -> None:
    """Raises TypeError unless `build` makes layers and names all its arguments."""
    is_layer = isinstance(build, type) and issubclass(build, nnx.Module)
    if not is_layer and not isinstance(build, FunctionType):
        raise TypeError(
            f"{function}: {name!r} must be a subclass of flax.nnx.Module, such as upsampling.nn.Upsampler, or a "
            f"function that makes one; got {build!r}."
        )
    signature = _signature(build)
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    lacking = [argument for argument in _GIVEN if argument not in signature.parameters]
    other = [p.name for p in signature.parameters.values() if p.kind not in by_keyword or p.name in ("name", "variant")]
    if lacking or other:
        raise TypeError(
            f"{function}: {name!r} must take features, scale and rngs by keyword, and each of its options by a name "
            f"other than 'name' and 'variant'; its signature is {signature}."
        )


def _signature(build: Callable[..., nnx.Module]) -> inspect.Signature:
    # A class is asked through its __init__: NNX's metaclass takes (*args, **kwargs).
    if not isinstance(build, type):
        return inspect.signature(build)
    return inspect.Signature(list(inspect.signature(build.__init__).parameters.values())[1:])


def _place(build: Any) -> tuple[str, str]:
    return build.__module__, build.__qualname__


def _near(given: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class _Shown(str):
    """A default as `Method.__repr__` shows it: dtypes and functions by their names."""

    @classmethod
    def of(cls, default: Any) -> Any:
        if default is inspect.Parameter.empty or not callable(default):
            return default
        return cls(getattr(default, "__qualname__", type(default).__name__).partition(".")[0])

    def __repr__(self) -> str:
        return str(self)
