"""Convolutions in forms that a CPU computes faster than XLA's default.

On a CPU, XLA hands a convolution to Eigen as one product of patches and kernel. The gradients are
convolutions of unusual shapes, for which Eigen is slower. `_FORMS` lists the shapes that are
computed in another form, with the reasons; `experiments/results/cpu_forms.md` has the speedups.
Accelerators and exports, whose programs are traced without `fast`, use the plain convolution.
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
      onednn_dtypes: dtypes whose convolutions XLA hands to oneDNN.
      cores: number of cores.
    """

    onednn_dtypes: frozenset
    cores: int


class _Target(enum.Enum):
    """The target of a trace that is not for a known CPU.

    ANY: any device. Only grouped convolutions have a CPU form, which is chosen at compilation,
      because XLA computes grouped convolutions and their gradients naively.
    PLAIN: any device, without CPU forms.
    """

    ANY = "any"
    PLAIN = "plain"


# Convolutions are nested deeply in networks and objectives. A context variable reaches them without
# an argument in every function in between.
_target: contextvars.ContextVar[_Processor | _Target] = contextvars.ContextVar(
    "target", default=_Target.ANY
)


def fast(function: Callable, onednn_dtypes: Collection[Any] = (), cores: int = 1) -> Callable:
    """Returns the function with convolutions in their CPU forms.

    The result must be traced for a CPU, and as a whole: gradients are computed inside the function,
    in reverse mode.

    Args:
      function: any function.
      onednn_dtypes: dtypes whose convolutions XLA hands to oneDNN.
      cores: number of cores; sums are in a different order with several cores.
    """
    return _with_target(function, _Processor(frozenset(map(jnp.dtype, onednn_dtypes)), cores))


def plain(function: Callable) -> Callable:
    """Returns the function with plain convolutions, even inside a `fast` function."""
    return _with_target(function, _Target.PLAIN)


def cores() -> int:
    """Returns the number of cores of the CPU that the trace is for; 1 outside of `fast`."""
    target = _target.get()
    return target.cores if isinstance(target, _Processor) else 1


def _is_fast() -> bool:
    return isinstance(_target.get(), _Processor)


def _with_target(function, target):
    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        token = _target.set(target)
        try:
            return function(*arguments, **keywords)
        finally:
            _target.reset(token)

    return wrapped


class Spec(NamedTuple):
    """The settings of a convolution.

    Attributes:
      stride: stride along both axes.
      padding: number of zeros on each side of the height and of the width.
      precision: precision of the products, as in `jax.lax`.
      onednn: True if XLA hands the convolution to oneDNN, provided that oneDNN supports its shape.
    """

    stride: int
    padding: tuple[int, int]
    precision: str | None = None
    onednn: bool = False


class Case(NamedTuple):
    """The shape of a convolution of images [B, H, W, channels], which determines the form.

    Attributes:
      batch: number of images, B.
      height: height of the images, H.
      width: width of the images, W.
      channels: channels of the images.
      kernel: height and width of the kernel.
      features: channels of the result.
      stride: stride along both axes.
      padding: number of zeros on each side of the height and of the width.
      half: True if the arrays are bfloat16.
      onednn: True if XLA hands the convolution to oneDNN, provided that oneDNN supports its shape.
      groups: number of groups into which channels and features are split.
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
        """True if each channel is a group with one feature."""
        return 1 < self.groups == self.channels == self.features

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        sides = zip((self.height, self.width), self.kernel, self.padding, strict=True)
        return tuple((side + 2 * pad - size) // self.stride + 1 for side, size, pad in sides)

    @property
    def positions(self) -> int:
        """Number of pixels of the result over the batch: the rows of the matrix product."""
        return self.batch * math.prod(self.output_size)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: Sequence[int],
    precision: str | None = None,
) -> jax.Array:
    """Computes a two-dimensional convolution.

    Args:
      x: feature maps [B, H, W, channels].
      kernel: kernel [height, width, channels / groups, features], of the dtype of x.
      stride: stride along both axes.
      padding: number of zeros on each side of the height and of the width.
      precision: precision of the products, as in `jax.lax`.

    Returns:
      Feature maps [B, H', W', features], of the dtype of x.
    """
    target = _target.get()
    if isinstance(target, _Processor):
        spec = Spec(stride, tuple(padding), precision, x.dtype in target.onednn_dtypes)
        return _convolve_for_cpu(spec, _repeated(x, kernel), kernel)
    spec = Spec(stride, tuple(padding), precision)
    if _case(spec, x, kernel).groups == 1 or target is _Target.PLAIN:
        return _plain_convolution(spec, x, kernel)

    def on_cpu(x, kernel):
        x = _repeated(x, kernel)
        form = _sum_over_taps if _case(spec, x, kernel).is_depthwise else _per_group
        return form(spec, x, kernel)

    default = functools.partial(_plain_convolution, spec)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=default)


def _repeated(x, kernel):
    """Returns x with a copy of each channel for each of its features, if each channel is a group.

    A convolution with one feature per channel then computes the same, in a depthwise form.
    """
    is_depthwise = kernel.shape[2] == 1 < x.shape[-1] < kernel.shape[3]
    return jnp.repeat(x, kernel.shape[3] // x.shape[-1], axis=-1) if is_depthwise else x


def unfused(x: Any) -> Any:
    """Returns x, with a barrier in CPU programs that prevents fusion with the operations around it.

    Without the barrier, XLA fuses a sum over positions and the convolutions before it into one
    YNNPACK operation.

    Args:
      x: an array or a tree of arrays.
    """
    return jax.lax.optimization_barrier(x) if _is_fast() else x


def _plain_convolution(spec, x, kernel):
    # Without preferred_element_type, the backward pass stays in the compute dtype too.
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(spec.stride, spec.stride),
        padding=[(pad, pad) for pad in spec.padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=spec.precision,
    )


def _image_gradient(convolution, spec, x, kernel, gradient):
    """Returns the images' gradient of one of the functions that compute a convolution."""
    (image_gradient,) = jax.linear_transpose(lambda x: convolution(spec, x, kernel), x)(gradient)
    return image_gradient


def _plain_kernel_gradient(spec, x, kernel, gradient):
    """Returns the kernel's gradient of the plain convolution."""
    (kernel_gradient,) = jax.linear_transpose(
        lambda kernel: _plain_convolution(spec, x, kernel), kernel
    )(gradient)
    return kernel_gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve_for_cpu(spec, x, kernel):
    """Computes a convolution whose value and gradients have the CPU form for its shape."""
    form = choose(_case(spec, x, kernel))
    return (form.value or _plain_convolution)(spec, x, kernel)


def _convolve_forward(spec, x, kernel):
    return _convolve_for_cpu(spec, x, kernel), (x, kernel)


def _convolve_backward(spec, residuals, gradient):
    x, kernel = residuals
    form = choose(_case(spec, x, kernel))
    x_shape, kernel_shape = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in residuals)
    # Without the barrier, XLA fuses the operations that compute x and gradient into the transposes
    # of the gradients, and repeats these operations for each position.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    default = functools.partial(_image_gradient, _plain_convolution)
    image_gradient = (form.image_gradient or default)(spec, x_shape, kernel, gradient)
    kernel_gradient = (form.kernel_gradient or _default_kernel_gradient)(
        spec, x, kernel_shape, gradient
    )
    # Without the barrier, XLA fuses the addition of the weight decay into the product, which costs
    # an additional pass.
    return image_gradient, jax.lax.optimization_barrier(kernel_gradient)


_convolve_for_cpu.defvjp(_convolve_forward, _convolve_backward)


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


# Number of parts of the batch whose kernel gradients several cores compute in parallel.
_PARTS = 2


def _runs_on_one_core(kernel):
    """Returns True if Eigen computes the gradient of a kernel on one core.

    Eigen distributes the elements of a result over cores, but not the terms of a sum.
    """
    return math.prod(kernel.shape) <= 9 * 64 * 64


def _default_kernel_gradient(spec, x, kernel, gradient):
    """Returns the kernel's gradient, by oneDNN for bfloat16 and by Eigen otherwise."""
    if spec.onednn and x.dtype == jnp.bfloat16:
        return _plain_kernel_gradient(spec, x, kernel, gradient)
    kernel_gradient = _eigen_kernel_gradient if spec.onednn else _plain_kernel_gradient
    if cores() == 1 or len(x) % _PARTS or not _runs_on_one_core(kernel):
        return kernel_gradient(spec, x, kernel, gradient)
    parts = zip(jnp.split(x, _PARTS), jnp.split(gradient, _PARTS), strict=True)
    # Without the barrier, XLA fuses the sum into one of the parts, so that they run in sequence.
    return sum(
        jax.lax.optimization_barrier([kernel_gradient(spec, a, kernel, b) for a, b in parts])
    )


def _eigen_kernel_gradient(spec, x, kernel, gradient):
    """Returns the kernel's gradient, by Eigen, because XLA uses oneDNN without negative padding.

    oneDNN needs up to four times as long for this gradient, and its sum over all positions of the
    batch is less exact.
    """
    (top, left), more = spec.padding, spec.padding[0] + 1
    # Without the barrier, XLA fuses the padding into the next transpose, which costs as much as
    # half a convolution.
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

    (kernel_gradient,) = jax.linear_transpose(convolution, kernel)(gradient)
    return kernel_gradient


def _flipped_image_gradient(spec, x, kernel, gradient):
    """Returns the gradient of the images, as a forward convolution with the flipped kernel.

    XLA's gradient reads the kernel in reverse order, which XLA does not hand to oneDNN.
    """
    stride, size = spec.stride, kernel.shape[:2]
    before = [length - 1 - pad for length, pad in zip(size, spec.padding, strict=True)]
    dilated = [stride * count for count in gradient.shape[1:3]]
    sides = zip(x.shape[1:3], size, before, dilated, strict=True)
    after = [side + length - 1 - low - count for side, length, low, count in sides]
    groups, (channels, features) = x.shape[-1] // kernel.shape[2], kernel.shape[2:]
    flipped = jnp.flip(kernel, (0, 1)).reshape(*size, channels, groups, features // groups)
    flipped = flipped.swapaxes(2, 4).reshape(*size, features // groups, groups * channels)
    if stride > 1:
        gradient = _dilate(gradient, stride)
    # Without the barrier, XLA fuses both into the convolution again.
    flipped, gradient = jax.lax.optimization_barrier((flipped, gradient))
    return jax.lax.conv_general_dilated(
        gradient,
        flipped,
        window_strides=(1, 1),
        padding=list(zip(before, after, strict=True)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=spec.precision,
    )


def _dilate(x, stride):
    """Returns [B, H * stride, W * stride, channels]: x with zeros below and right of each pixel.

    Two concatenations copy whole rows, four times as fast as `jax.lax.pad` with interior padding.
    """
    batch, height, width, channels = x.shape
    for count in (channels, width * stride * channels):
        x = x.reshape(batch, height, -1, count)
        zeros = jnp.zeros((*x.shape[:3], (stride - 1) * count), x.dtype)
        x = jnp.concatenate([x, zeros], -1)
    return x.reshape(batch, height * stride, width * stride, channels)


# Convolutions as a matrix product with all patches (im2col).


def _product(spec, a, b, axes, dtype=None):
    """Returns the matrix product that sums over one axis of a and one axis of b.

    Args:
      spec: the precision.
      a: a matrix.
      b: a matrix.
      axes: the axis of a and the axis of b.
      dtype: dtype of the result; None for the dtype of a and b.
    """
    sums = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, sums, spec.precision, preferred_element_type=dtype)


def _inner(spec, a, b):
    """Returns the product [k, m] of a [n, k] and b [n, m], summed over rows.

    The product is faster if the narrower matrix comes first.
    """
    if a.shape[1] <= b.shape[1]:
        return _product(spec, a, b, (0, 0))
    return _product(spec, b, a, (0, 0)).T


def _patches(spec, kernel, x):
    """Returns the pixels that each position of the result reads.

    Args:
      spec: stride and padding.
      kernel: height and width of the kernel.
      x: images [B, H, W, channels].

    Returns:
      [B, result's height, result's width, kernel's height * width * channels].
    """
    pad = [(0, 0), *((pad, pad) for pad in spec.padding), (0, 0)]
    case = Case(*x.shape, kernel, 0, spec.stride, spec.padding)
    padded, (height, width), stride = jnp.pad(x, pad), case.output_size, spec.stride
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


def _im2col(spec, x, kernel):
    patches = _patches(spec, kernel.shape[:2], x)
    rows = patches.reshape(-1, patches.shape[-1])
    y = _product(spec, rows, kernel.reshape(-1, kernel.shape[-1]), (1, 0))
    return y.reshape(*patches.shape[:3], -1)


def _im2col_image_gradient(spec, x, kernel, gradient):
    gather = functools.partial(_patches, spec, kernel.shape[:2])
    rows = gradient.reshape(-1, gradient.shape[-1])
    # A pixel's gradient is a sum over patches, whose terms bfloat16 would round.
    patches = _product(spec, rows, kernel.reshape(-1, kernel.shape[-1]), (1, 1), jnp.float32)
    patches = patches.reshape(*gradient.shape[:3], -1)
    like = jax.ShapeDtypeStruct(x.shape, patches.dtype)
    (image_gradient,) = jax.linear_transpose(gather, like)(patches)
    return image_gradient.astype(x.dtype)


def _im2col_kernel_gradient(spec, x, kernel, gradient):
    patches = _patches(spec, kernel.shape[:2], x)
    rows = patches.reshape(-1, patches.shape[-1])
    return _inner(spec, rows, gradient.reshape(-1, gradient.shape[-1])).reshape(kernel.shape)


# Several positions at once. A block has this many columns.

_BLOCK = 4


def _block_patches(spec, kernel, x):
    """Returns the pixels that each block of 4 columns reads.

    Args:
      spec: unused; the stride is 1.
      kernel: height and width of the kernel.
      x: images [B, H, W, channels].

    Returns:
      [B, H, W / 4, kernel's height * columns * channels].
    """
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
    """Returns [height * columns * channels, 4 * features]: the kernel for each of 4 columns."""
    shifted = [
        jnp.pad(kernel, ((0, 0), (column, _BLOCK - 1 - column), (0, 0), (0, 0)))
        for column in range(_BLOCK)
    ]
    return jnp.stack(shifted, axis=3).reshape(-1, _BLOCK * kernel.shape[-1])


def _blocked(spec, x, kernel):
    blocks = _block_patches(spec, kernel.shape[:2], x)
    rows = blocks.reshape(-1, blocks.shape[-1])
    y = _product(spec, rows, _block_kernel(kernel), (1, 0))
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def _blocked_kernel_gradient(spec, x, kernel, gradient):
    blocks = _block_patches(spec, kernel.shape[:2], x)
    rows = blocks.reshape(-1, blocks.shape[-1])
    both = _inner(spec, rows, gradient.reshape(len(rows), -1))
    (kernel_gradient,) = jax.linear_transpose(_block_kernel, kernel)(both)
    return kernel_gradient


# Grouped convolutions.


def _sum_over_taps(spec, x, kernel):
    """Computes a depthwise convolution as a sum over kernel elements times shifted images."""
    stride, pads = spec.stride, [(0, 0), *((pad, pad) for pad in spec.padding), (0, 0)]
    padded = jnp.pad(x.astype(jnp.float32), pads)
    height, width = _case(spec, x, kernel).output_size
    y = jnp.zeros((), jnp.float32)
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            factor = kernel[row, column, 0].astype(jnp.float32)
            y += padded[:, rows, columns] * jax.lax.expand_dims(factor, range(3))
    return y.astype(x.dtype)


def _row_reader(case, x):
    """Returns a function that reads the pixels for one row of a depthwise kernel.

    The function takes the index of a row and returns an array [B, height, width, channels] for each
    column of the kernel. A loop over rows compiles one row, whereas a separate sum for each kernel
    element takes seconds to compile.
    """
    pads = [(0, 0), *((pad, pad) for pad in case.padding), (0, 0)]
    stride = case.stride
    # Each value is read once for each kernel element. The barrier makes XLA compute the padded
    # images once. They are float32 because XLA does not vectorize bfloat16.
    padded = jax.lax.optimization_barrier(jnp.pad(x.astype(jnp.float32), pads))
    height, width = (stride * (side - 1) + 1 for side in case.output_size)

    def read(row):
        band = jax.lax.dynamic_slice_in_dim(padded, row, height, axis=1)[:, ::stride]
        return [band[:, :, i : i + width : stride] for i in range(case.kernel[1])]

    return read


def _sum_over_rows(spec, x, kernel):
    """Computes a depthwise convolution as a sum over the kernel's rows."""
    case = _case(spec, x, kernel)
    read, factors = _row_reader(case, x), jax.lax.optimization_barrier(kernel.astype(jnp.float32))

    def add(row, y):
        columns = jax.lax.dynamic_index_in_dim(factors, row, keepdims=False)[:, 0]
        parts = zip(read(row), columns, strict=True)
        return y + sum(part * jax.lax.expand_dims(factor, range(3)) for part, factor in parts)

    y = jnp.zeros((case.batch, *case.output_size, case.features), jnp.float32)
    return jax.lax.fori_loop(0, kernel.shape[0], add, y).astype(x.dtype)


def _sum_over_rows_image_gradient(spec, x, kernel, gradient):
    """Returns the gradient of the images, as a depthwise convolution with the flipped kernel."""
    size, stride = kernel.shape[:2], spec.stride
    before = [length - 1 - pad for length, pad in zip(size, spec.padding, strict=True)]
    if stride > 1:
        gradient = _dilate(gradient, stride)
    sides = zip(x.shape[1:3], size, before, gradient.shape[1:3], strict=True)
    after = [side + length - 1 - low - count for side, length, low, count in sides]
    edges = [(0, 0, 0), *((low, high, 0) for low, high in zip(before, after, strict=True))]
    gradient = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [*edges, (0, 0, 0)])
    return _sum_over_rows(
        spec._replace(stride=1, padding=(0, 0)), gradient, jnp.flip(kernel, (0, 1))
    )


def _sum_over_rows_kernel_gradient(spec, x, kernel, gradient):
    """Returns the kernel's gradient, as sums over eighths of the batch, then over the rest.

    XLA vectorizes sums of eighths. XLA does not vectorize a sum of products over all positions.
    """
    case = _case(spec, x, kernel)
    read = _row_reader(case, x)
    count = math.gcd(case.batch, 8)
    gradients = jnp.split(gradient.astype(jnp.float32), count)

    def row(row):
        sums = []
        for part in read(row):
            products = zip(jnp.split(part, count), gradients, strict=True)
            eighth = jax.lax.optimization_barrier(sum(a * b for a, b in products))
            sums.append(jnp.sum(jnp.sum(eighth, (1, 2)), 0))
        return jnp.stack(sums)

    kernel_gradient = jax.lax.map(row, jnp.arange(kernel.shape[0]))
    return kernel_gradient.reshape(kernel.shape).astype(kernel.dtype)


def _per_group(spec, x, kernel):
    """Computes one convolution for each group of channels."""
    groups = x.shape[-1] // kernel.shape[2]
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([_plain_convolution(spec, *part) for part in parts], axis=-1)


def _per_group_kernel_gradient(spec, x, kernel, gradient):
    groups = x.shape[-1] // kernel.shape[2]
    part = jax.ShapeDtypeStruct((*kernel.shape[:3], kernel.shape[3] // groups), kernel.dtype)
    parts = zip(jnp.split(x, groups, -1), jnp.split(gradient, groups, -1), strict=True)
    kernel_gradient = _eigen_kernel_gradient if spec.onednn else _plain_kernel_gradient
    return jnp.concatenate([kernel_gradient(spec, a, part, b) for a, b in parts], axis=-1)


class Form(NamedTuple):
    """A form of a convolution: functions for its value and gradients; None for the plain ones.

    Attributes:
      name: name of the form.
      suits: returns True for shapes that the form is for.
      value: (spec, x, kernel) -> y.
      image_gradient: (spec, shape of x, kernel, gradient) -> gradient of x.
      kernel_gradient: (spec, x, shape of the kernel, gradient) -> gradient of the kernel.
    """

    name: str
    suits: Callable[[Case], bool]
    value: Callable | None = None
    image_gradient: Callable | None = None
    kernel_gradient: Callable | None = None


_IM2COL = (_im2col, _im2col_image_gradient, _im2col_kernel_gradient)
# `choose` returns the first form that suits a shape.
_FORMS = (
    # XLA's own code for groups is naive and a hundred times slower. oneDNN supports groups, except
    # for kernel gradients and for bfloat16.
    Form(
        "depthwise, oneDNN",
        lambda c: c.is_depthwise and c.onednn and not c.half,
        image_gradient=_flipped_image_gradient,
        kernel_gradient=_sum_over_rows_kernel_gradient,
    ),
    # For a small kernel, transposed sums cost less than dilating the gradient to four times as many
    # pixels.
    Form(
        "depthwise, strided",
        lambda c: c.is_depthwise and c.stride > 1 and c.kernel[0] <= 3,
        _sum_over_rows,
        functools.partial(_image_gradient, _sum_over_taps),
        _sum_over_rows_kernel_gradient,
    ),
    Form(
        "depthwise",
        lambda c: c.is_depthwise,
        _sum_over_rows,
        _sum_over_rows_image_gradient,
        _sum_over_rows_kernel_gradient,
    ),
    Form(
        "groups, oneDNN",
        lambda c: c.groups > 1 and c.onednn and not c.half,
        image_gradient=_flipped_image_gradient,
        kernel_gradient=_per_group_kernel_gradient,
    ),
    Form(
        "groups",
        lambda c: c.groups > 1,
        _per_group,
        functools.partial(_image_gradient, _per_group),
        _per_group_kernel_gradient,
    ),
    # A patch is one pixel, so that the product needs no copies. A convolution copies both operands.
    Form("pixel", lambda c: c.kernel == (1, 1) and c.padding == (0, 0), *_IM2COL),
    # XLA uses the larger operand, here the kernel, as the images, which costs up to 25 times more.
    Form("small map", lambda c: c.height < c.kernel[0] and c.width < c.kernel[1], *_IM2COL),
    # A product with few rows costs about as much as one read of its kernel, whereas convolutions
    # for the gradients first reverse the kernel.
    Form(
        "few places",
        lambda c: c.positions <= (100 if c.half and c.onednn else 200) and c.channels >= 64,
        *_IM2COL,
    ),
    # oneDNN multiplies bfloat16 eight times as fast as float32. XLA hands gradients to oneDNN as
    # forward convolutions, or as products if the patches are cheap to gather.
    Form(
        "half, many channels",
        lambda c: c.half and c.onednn and c.channels * c.stride**2 >= 128,
        image_gradient=_flipped_image_gradient,
        kernel_gradient=_im2col_kernel_gradient,
    ),
    Form("half", lambda c: c.half and c.onednn, image_gradient=_flipped_image_gradient),
    # The three channels of an image fill only a part of a vector register, except in oneDNN.
    Form(
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
        kernel_gradient=_blocked_kernel_gradient,
    ),
    # At stride 2, three of four pixels of the dilated gradient are zeros.
    Form(
        "strided", lambda c: c.stride > 1 and c.channels < 64, image_gradient=_im2col_image_gradient
    ),
    Form("default", lambda c: True),
)


def choose(case: Case) -> Form:
    """Returns the form of a convolution."""
    return next(form for form in _FORMS if form.suits(case))
