"""Convolutions on a CPU: other forms of the same sums, which that device computes faster.

XLA hands a convolution on a CPU to Eigen, as one product of patches with the kernel. Its gradients
are convolutions too, of unusual shapes, which suit Eigen less. `_WAYS` lists the shapes that are
computed in another form, and why; `experiments/results/cpu_forms.md` has the gains. Programs for
accelerators and exports, which are not traced by `fast`, have the plain convolution.
"""

import contextvars
import enum
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class _Processor(NamedTuple):
    """The CPU that a program is traced for.

    Attributes:
      onednn: types of arrays whose convolutions XLA hands to oneDNN.
      cores: number of cores.
    """

    onednn: frozenset
    cores: int


class _Target(enum.Enum):
    """The target of a trace other than one known CPU.

    ANY: any device. Only grouped convolutions have a form for CPUs, chosen when the program is
    compiled: XLA computes them, and even more so their gradients, naively.
    PLAIN: any device, without that form.
    """

    ANY = "any"
    PLAIN = "plain"


# Traced functions are nested deeply in networks and objectives. A context variable reaches their
# convolutions without an argument in all of them.
_target: contextvars.ContextVar[_Processor | _Target] = contextvars.ContextVar(
    "target", default=_Target.ANY
)


def fast(function: Callable, onednn: Collection[Any] = (), cores: int = 1) -> Callable:
    """Returns the function with convolutions in the forms of a CPU.

    The result must be traced for a CPU, and as a whole: gradients are taken inside of it, and none
    of them by forward differentiation.

    Args:
      function: any function.
      onednn: types of arrays whose convolutions XLA hands to oneDNN.
      cores: number of cores; several cores take sums in another order.
    """
    return _traced_for(function, _Processor(frozenset(map(jnp.dtype, onednn)), cores))


def plain(function: Callable) -> Callable:
    """Returns the function with plain convolutions, even inside of a function that is `fast`."""
    return _traced_for(function, _Target.PLAIN)


def cores() -> int:
    """Returns the number of cores of the CPU that is traced for; 1 outside of `fast`."""
    target = _target.get()
    return target.cores if isinstance(target, _Processor) else 1


def _is_fast() -> bool:
    return isinstance(_target.get(), _Processor)


def _traced_for(function, target):
    @functools.wraps(function)
    def inside(*arguments: Any, **keywords: Any) -> Any:
        token = _target.set(target)
        try:
            return function(*arguments, **keywords)
        finally:
            _target.reset(token)

    return inside


class Spec(NamedTuple):
    """The settings of a convolution.

    Attributes:
      stride: of both axes.
      padding: zeros on each side of the height and of the width.
      precision: of its products, as `jax.lax` has it.
      onednn: True if XLA hands it to oneDNN, for shapes that oneDNN accepts.
    """

    stride: int
    padding: tuple[int, int]
    precision: str | None = None
    onednn: bool = False


class Case(NamedTuple):
    """The shape of a convolution, of images [B, H, W, channels], by which its form is chosen.

    Attributes:
      kernel: height and width.
      groups: into which the channels and the features are split.
      half: True if the arrays are bfloat16.
      onednn: True if XLA hands it to oneDNN, for shapes that oneDNN accepts.
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    features: int
    stride: int
    padding: tuple[int, int]
    half: bool = False
    onednn: bool = False
    groups: int = 1

    @property
    def is_depthwise(self) -> bool:
        """Returns True if each channel has its own kernel and makes one feature."""
        return 1 < self.groups == self.channels == self.features

    @property
    def result(self) -> tuple[int, int]:
        """Height and width of the result."""
        sides = zip((self.height, self.width), self.kernel, self.padding, strict=True)
        return tuple((side + 2 * pad - size) // self.stride + 1 for side, size, pad in sides)

    @property
    def places(self) -> int:
        """Pixels of the result, over the batch: rows of the matrix product."""
        return self.batch * math.prod(self.result)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: Sequence[int],
    precision: str | None = None,
) -> jax.Array:
    """Convolves maps [B, H, W, channels] with [height, width, channels / groups, features].

    Args:
      x: maps.
      kernel: of x's type.
      stride: of both axes.
      padding: zeros on each side of the height and of the width.
      precision: as `jax.lax` has it.
    """
    target = _target.get()
    if isinstance(target, _Processor):
        spec = Spec(stride, tuple(padding), precision, x.dtype in target.onednn)
        return _chosen(spec, x, kernel)
    spec = Spec(stride, tuple(padding), precision)
    case = _case(spec, x, kernel)
    if case.groups == 1 or target is _Target.PLAIN:
        return _whole(spec, x, kernel)
    on_cpu = functools.partial(_by_place if case.is_depthwise else _by_group, spec)
    whole = functools.partial(_whole, spec)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=whole)


def apart(x: Any) -> Any:
    """Returns x, arrays that a CPU computes once and does not fuse into their readers.

    XLA joins a sum over places with the convolutions before it into one program of YNNPACK's.
    """
    return jax.lax.optimization_barrier(x) if _is_fast() else x


def _whole(spec, x, kernel):
    # No preferred_element_type: the backward pass must stay in the compute dtype too.
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(spec.stride, spec.stride),
        padding=[(pad, pad) for pad in spec.padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=spec.precision,
    )


def _pulled_by_images(way, spec, x, kernel, gradient):
    """Of a way to compute a convolution, the gradient of images like x."""
    (by_images,) = jax.linear_transpose(lambda x: way(spec, x, kernel), x)(gradient)
    return by_images


def _whole_by_kernel(spec, x, kernel, gradient):
    """Of the plain convolution, the gradient of a kernel like `kernel`."""
    (by_kernel,) = jax.linear_transpose(lambda kernel: _whole(spec, x, kernel), kernel)(gradient)
    return by_kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen(spec, x, kernel):
    """A convolution whose value and gradients each have the way of their shape."""
    way = choose(_case(spec, x, kernel))
    return (way.value or _whole)(spec, x, kernel)


def _chosen_forward(spec, x, kernel):
    return _chosen(spec, x, kernel), (x, kernel)


def _chosen_backward(spec, kept, gradient):
    x, kernel = kept
    way = choose(_case(spec, x, kernel))
    like_x, like_kernel = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in kept)
    # Else what made them is computed anew, place by place, by the transposes of the gradients.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    usual = functools.partial(_pulled_by_images, _whole)
    by_images = (way.by_images or usual)(spec, like_x, kernel, gradient)
    by_kernel = (way.by_kernel or _usual_by_kernel)(spec, x, like_kernel, gradient)
    # Else the sum with what decays weights becomes a part of the product, and costs a pass more.
    return by_images, jax.lax.optimization_barrier(by_kernel)


_chosen.defvjp(_chosen_forward, _chosen_backward)


def _case(spec, x, kernel):
    height, width, channels, features = kernel.shape
    return Case(
        *x.shape,
        (height, width),
        features,
        *spec[:2],
        half=x.dtype == jnp.bfloat16,
        onednn=spec.onednn,
        groups=x.shape[-1] // channels,
    )


# Convolutions of parts of the batch, which cores compute side by side.
_EIGEN_PARTS = 2


def _is_one_block(kernel):
    """Whether Eigen, which divides a result over cores but no sum, gives a kernel to one core."""
    return math.prod(kernel.shape) <= 9 * 64 * 64


def _usual_by_kernel(spec, x, kernel, gradient):
    """Of the plain convolution, by whoever is faster at it; oneDNN is in bfloat16 alone."""
    if spec.onednn and x.dtype == jnp.bfloat16:
        return _whole_by_kernel(spec, x, kernel, gradient)
    by_kernel = _apart_by_kernel if spec.onednn else _whole_by_kernel
    if cores() == 1 or len(x) % _EIGEN_PARTS or not _is_one_block(kernel):
        return by_kernel(spec, x, kernel, gradient)
    parts = zip(jnp.split(x, _EIGEN_PARTS), jnp.split(gradient, _EIGEN_PARTS), strict=True)
    # Else their sum becomes a part of one of them, and they follow each other.
    return sum(jax.lax.optimization_barrier([by_kernel(spec, a, kernel, b) for a, b in parts]))


def _apart_by_kernel(spec, x, kernel, gradient):
    """The same by Eigen: XLA hands nothing to oneDNN that has a negative padding.

    oneDNN takes up to four times as long for it, and is less exact: the sum is over all places of
    the batch.
    """
    (top, left), more = spec.padding, spec.padding[0] + 1
    # By itself: inside of the transpose that comes next it would cost half a convolution.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (more, 0), (0, 0), (0, 0))))

    def convolution(kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(spec.stride, spec.stride),
            padding=((top - more, top), (left, left)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=spec.precision,
        )

    (by_kernel,) = jax.linear_transpose(convolution, kernel)(gradient)
    return by_kernel


def _turned_by_images(spec, x, kernel, gradient):
    """The same as a convolution that could be a network's own, with the kernel turned round.

    That of XLA reads the kernel backwards, which oneDNN leaves to others.
    """
    stride, size = spec.stride, kernel.shape[:2]
    before = [length - 1 - pad for length, pad in zip(size, spec.padding, strict=True)]
    spread = [stride * count for count in gradient.shape[1:3]]
    sides = zip(x.shape[1:3], size, before, spread, strict=True)
    after = [side + length - 1 - low - count for side, length, low, count in sides]
    groups, (channels, features) = x.shape[-1] // kernel.shape[2], kernel.shape[2:]
    turned = jnp.flip(kernel, (0, 1)).reshape(*size, channels, groups, features // groups)
    turned = turned.swapaxes(2, 4).reshape(*size, features // groups, groups * channels)
    if stride > 1:
        gradient = _spread(gradient, stride)
    # Else both become a part of the convolution again.
    turned, gradient = jax.lax.optimization_barrier((turned, gradient))
    return jax.lax.conv_general_dilated(
        gradient,
        turned,
        window_strides=(1, 1),
        padding=list(zip(before, after, strict=True)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=spec.precision,
    )


def _spread(x, stride):
    """[B, H * stride, W * stride, channels]: x with zeros after each pixel, below and beside it.

    Written as two joins of whole rows, which are copied four times as fast as a padding is filled.
    """
    batch, height, width, channels = x.shape
    for count in (channels, width * stride * channels):
        x = x.reshape(batch, height, -1, count)
        zeros = jnp.zeros((*x.shape[:3], (stride - 1) * count), x.dtype)
        x = jnp.concatenate([x, zeros], -1)
    return x.reshape(batch, height * stride, width * stride, channels)


# A product with a few or with all of the patches at hand.


def _product(spec, a, b, axes, dtype=None):
    """The matrix product that sums over these axes of a and of b, of their type or another."""
    sums = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, sums, spec.precision, preferred_element_type=dtype)


def _inner(spec, a, b):
    """The sum over rows: [n, k] and [n, m] to [k, m]. It is faster with the narrower one first."""
    if a.shape[1] <= b.shape[1]:
        return _product(spec, a, b, (0, 0))
    return _product(spec, b, a, (0, 0)).T


def _patches(spec, kernel, x):
    """[B, height, width, kernel's height * width * channels]: what each place of a result reads."""
    pad = [(0, 0), *((pad, pad) for pad in spec.padding), (0, 0)]
    case = Case(*x.shape, kernel, 0, spec.stride, spec.padding)
    padded, (height, width), stride = jnp.pad(x, pad), case.result, spec.stride
    parts = [
        padded[
            :,
            row : row + stride * (height - 1) + 1 : stride,
            column : column + stride * (width - 1) + 1 : stride,
        ]
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def _gathered(spec, x, kernel):
    patches = _patches(spec, kernel.shape[:2], x)
    rows = patches.reshape(-1, patches.shape[-1])
    y = _product(spec, rows, kernel.reshape(-1, kernel.shape[-1]), (1, 0))
    return y.reshape(*patches.shape[:3], -1)


def _gathered_by_images(spec, x, kernel, gradient):
    gather = functools.partial(_patches, spec, kernel.shape[:2])
    rows = gradient.reshape(-1, gradient.shape[-1])
    # A pixel gets the sum of its places in all patches, each of which bfloat16 would round.
    patches = _product(spec, rows, kernel.reshape(-1, kernel.shape[-1]), (1, 1), jnp.float32)
    patches = patches.reshape(*gradient.shape[:3], -1)
    like = jax.ShapeDtypeStruct(x.shape, patches.dtype)
    (by_images,) = jax.linear_transpose(gather, like)(patches)
    return by_images.astype(x.dtype)


def _gathered_by_kernel(spec, x, kernel, gradient):
    patches = _patches(spec, kernel.shape[:2], x)
    rows = patches.reshape(-1, patches.shape[-1])
    return _inner(spec, rows, gradient.reshape(-1, gradient.shape[-1])).reshape(kernel.shape)


# Several places at once.

_BLOCK = 4  # columns


def _blocks(spec, kernel, x):
    """[B, height, width / 4, height of the kernel * columns * channels]: what 4 columns read."""
    del spec
    size, (batch, height, width, channels) = kernel[0], x.shape
    pad, count = size // 2, width // _BLOCK
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, _BLOCK - pad), (0, 0)))
    rows = padded.reshape(batch, height + 2 * pad, count + 1, _BLOCK * channels)
    more = (size - 1) * channels
    parts = [
        part
        for row in range(size)
        for part in (
            rows[:, row : row + height, :count],
            rows[:, row : row + height, 1:, :more],
        )
    ]
    return jnp.concatenate(parts, axis=-1)


def _block_kernel(kernel):
    """[height * columns * channels, 4 * features]: the kernel for each of 4 columns."""
    shifted = [
        jnp.pad(kernel, ((0, 0), (column, _BLOCK - 1 - column), (0, 0), (0, 0)))
        for column in range(_BLOCK)
    ]
    return jnp.stack(shifted, axis=3).reshape(-1, _BLOCK * kernel.shape[-1])


def _blocked(spec, x, kernel):
    blocks = _blocks(spec, kernel.shape[:2], x)
    rows = blocks.reshape(-1, blocks.shape[-1])
    y = _product(spec, rows, _block_kernel(kernel), (1, 0))
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def _blocked_by_kernel(spec, x, kernel, gradient):
    blocks = _blocks(spec, kernel.shape[:2], x)
    rows = blocks.reshape(-1, blocks.shape[-1])
    both = _inner(spec, rows, gradient.reshape(len(rows), -1))
    (by_kernel,) = jax.linear_transpose(_block_kernel, kernel)(both)
    return by_kernel


# By groups.


def _by_place(spec, x, kernel):
    """A depthwise convolution, as a sum over places of the kernel of shifted images times it."""
    stride, pads = spec.stride, [(0, 0), *((pad, pad) for pad in spec.padding), (0, 0)]
    padded = jnp.pad(x.astype(jnp.float32), pads)
    height, width = _case(spec, x, kernel).result
    y = jnp.zeros((), jnp.float32)
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            factor = kernel[row, column, 0].astype(jnp.float32)
            y += padded[:, rows, columns] * jax.lax.expand_dims(factor, range(3))
    return y.astype(x.dtype)


def _rows(case, x):
    """[B, H + 2 pad, W + 2 pad, channels] and a function: of a kernel's row, what it reads.

    The function gives one array [B, height, width, channels] for each column of the kernel. A loop
    over rows is compiled once for all of them, where as many sums as places take seconds.
    """
    pads = [(0, 0), *((pad, pad) for pad in case.padding), (0, 0)]
    stride = case.stride
    # By itself, and not bfloat16, which has no vectors: each value is read once for each place.
    padded = jax.lax.optimization_barrier(jnp.pad(x.astype(jnp.float32), pads))
    height, width = (stride * (side - 1) + 1 for side in case.result)

    def read(row):
        band = jax.lax.dynamic_slice_in_dim(padded, row, height, axis=1)[:, ::stride]
        return [band[:, :, i : i + width : stride] for i in range(case.kernel[1])]

    return read


def _by_rows(spec, x, kernel):
    """A depthwise convolution, as a sum over the kernel's rows."""
    case = _case(spec, x, kernel)
    read, factors = _rows(case, x), jax.lax.optimization_barrier(kernel.astype(jnp.float32))

    def add(row, y):
        columns = jax.lax.dynamic_index_in_dim(factors, row, keepdims=False)[:, 0]
        parts = zip(read(row), columns, strict=True)
        return y + sum(part * jax.lax.expand_dims(factor, range(3)) for part, factor in parts)

    y = jnp.zeros((case.batch, *case.result, case.features), jnp.float32)
    return jax.lax.fori_loop(0, kernel.shape[0], add, y).astype(x.dtype)


def _rows_by_images(spec, x, kernel, gradient):
    """The same as a depthwise convolution of the gradient, with the kernel turned round."""
    size, stride = kernel.shape[:2], spec.stride
    before = [length - 1 - pad for length, pad in zip(size, spec.padding, strict=True)]
    if stride > 1:
        gradient = _spread(gradient, stride)
    sides = zip(x.shape[1:3], size, before, gradient.shape[1:3], strict=True)
    after = [side + length - 1 - low - count for side, length, low, count in sides]
    edges = [(0, 0, 0), *((low, high, 0) for low, high in zip(before, after, strict=True))]
    gradient = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [*edges, (0, 0, 0)])
    return _by_rows(spec._replace(stride=1, padding=(0, 0)), gradient, jnp.flip(kernel, (0, 1)))


def _rows_by_kernel(spec, x, kernel, gradient):
    """The same by sums over eighths of the batch, which have vectors; then over what is left.

    XLA sums products over all places one by one.
    """
    case = _case(spec, x, kernel)
    read = _rows(case, x)
    count = math.gcd(case.batch, 8)
    gradients = jnp.split(gradient.astype(jnp.float32), count)

    def row(row):
        sums = []
        for part in read(row):
            products = zip(jnp.split(part, count), gradients, strict=True)
            eighth = jax.lax.optimization_barrier(sum(a * b for a, b in products))
            sums.append(jnp.sum(jnp.sum(eighth, (1, 2)), 0))
        return jnp.stack(sums)

    by_kernel = jax.lax.map(row, jnp.arange(kernel.shape[0]))
    return by_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _by_group(spec, x, kernel):
    """A convolution for each group of channels."""
    groups = x.shape[-1] // kernel.shape[2]
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([_whole(spec, *part) for part in parts], axis=-1)


def _groups_by_kernel(spec, x, kernel, gradient):
    groups = x.shape[-1] // kernel.shape[2]
    part = jax.ShapeDtypeStruct((*kernel.shape[:3], kernel.shape[3] // groups), kernel.dtype)
    parts = zip(jnp.split(x, groups, -1), jnp.split(gradient, groups, -1), strict=True)
    by_kernel = _apart_by_kernel if spec.onednn else _whole_by_kernel
    return jnp.concatenate([by_kernel(spec, a, part, b) for a, b in parts], axis=-1)


class Way(NamedTuple):
    """A form of a convolution's value and two gradients; None for that of the plain convolution.

    Attributes:
      name: the name of the form.
      suits: returns True for the shapes that it is for.
      value: (spec, x, kernel) -> y.
      by_images: (spec, shape of x, kernel, gradient) -> gradient of x.
      by_kernel: (spec, x, shape of the kernel, gradient) -> gradient of the kernel.
    """

    name: str
    suits: Callable[[Case], bool]
    value: Callable | None = None
    by_images: Callable | None = None
    by_kernel: Callable | None = None


_GATHERED = (_gathered, _gathered_by_images, _gathered_by_kernel)
# `choose` takes the first form that suits.
_WAYS = (
    # XLA itself computes groups naively, a hundred times as slowly. oneDNN has kernels for them,
    # but not for their gradients by a kernel, and not in bfloat16.
    Way(
        "depthwise, oneDNN",
        lambda c: c.is_depthwise and c.onednn and not c.half,
        by_images=_turned_by_images,
        by_kernel=_rows_by_kernel,
    ),
    # A small kernel's transposed sums cost less than a gradient that is spread over four pixels.
    Way(
        "depthwise, strided",
        lambda c: c.is_depthwise and c.stride > 1 and c.kernel[0] <= 3,
        _by_rows,
        functools.partial(_pulled_by_images, _by_place),
        _rows_by_kernel,
    ),
    Way("depthwise", lambda c: c.is_depthwise, _by_rows, _rows_by_images, _rows_by_kernel),
    Way(
        "groups, oneDNN",
        lambda c: c.groups > 1 and c.onednn and not c.half,
        by_images=_turned_by_images,
        by_kernel=_groups_by_kernel,
    ),
    Way(
        "groups",
        lambda c: c.groups > 1,
        _by_group,
        functools.partial(_pulled_by_images, _by_group),
        _groups_by_kernel,
    ),
    # One pixel is its own patch: a product as it stands, where a convolution first copies both.
    Way("pixel", lambda c: c.kernel == (1, 1) and c.padding == (0, 0), *_GATHERED),
    # XLA takes the larger of the two for the images, which costs up to 25 times as much.
    Way("small map", lambda c: c.height < c.kernel[0] and c.width < c.kernel[1], *_GATHERED),
    # A product with few rows costs as much as its kernel is read, once; the convolutions that are
    # its gradients first turn that kernel round.
    Way(
        "few places",
        lambda c: c.places <= (100 if c.half and c.onednn else 200) and c.channels >= 64,
        *_GATHERED,
    ),
    # oneDNN multiplies bfloat16 eight times as fast as float32, if XLA hands it the gradients:
    # as forward convolutions, and as products where the patches are cheap to gather.
    Way(
        "half, many channels",
        lambda c: c.half and c.onednn and c.channels * c.stride**2 >= 128,
        by_images=_turned_by_images,
        by_kernel=_gathered_by_kernel,
    ),
    Way("half", lambda c: c.half and c.onednn, by_images=_turned_by_images),
    # The three channels of an image, and few features, leave the vectors of a processor empty,
    # but oneDNN's.
    Way(
        "few channels",
        lambda c: (
            c.channels <= 4
            and not c.onednn
            and c.stride == 1
            and c.kernel == (3, 3)
            and c.padding == (1, 1)
            and c.width % _BLOCK == 0
        ),
        value=_blocked,
        by_kernel=_blocked_by_kernel,
    ),
    # Three of four pixels that the gradient is spread over are zeros.
    Way("strided", lambda c: c.stride > 1 and c.channels < 64, by_images=_gathered_by_images),
    Way("others", lambda c: True),
)


def choose(case: Case) -> Way:
    """Returns the form of a convolution."""
    return next(way for way in _WAYS if way.suits(case))
