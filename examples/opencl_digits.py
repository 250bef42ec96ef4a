"""Digits on a device: one upload, one download
=============================================

A network with one hidden layer learns handwritten digits on an OpenCL device, a GPU or a CPU. Before the first step one array goes up: the
pixels, what they show, and the weights to start from. After the last one comes down: the loss of each step, and the probabilities for the
digits held out. In between nothing crosses over and nothing is waited for: each call of softcore and each matrix product is put on the device's
queue, and Python runs ahead as far as it can.

Three things make that possible::

    x[first : first + batch]     a slice of an array on the device is a view, and so is a batch
    out=(losses[step], dz)       results go where they are told, so the losses gather on the device
    cross_entropy(..., one_hot)  labels would be read back, to see that each names a class; probabilities need not be

softcore has no matrix product, and NumPy's does not reach the device: a kernel of ten lines takes its place. It is told strides, so
transposes cost nothing either.
"""

import argparse
import time
from dataclasses import dataclass

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import softcore as sc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

BLUE, GREY = "#2b6ca3", "#c3cad2"


# %%
# The device's part
# -----------------
# A product of matrices, `c = a @ b + bias`, and a step down a gradient with momentum.

SOURCE = """
__kernel void product(long rows, long columns, long n, const __global float *a, long a_at, long a_row, long a_column,
                      const __global float *b, long b_at, long b_row, long b_column, const __global float *bias, long bias_at,
                      __global float *c) {
    const long column = get_global_id(0), row = get_global_id(1);
    if (row >= rows || column >= columns) return;
    float sum = bias ? bias[bias_at + column] : 0;
    for (long k = 0; k < n; k++) sum += a[a_at + row * a_row + k * a_column] * b[b_at + k * b_row + column * b_column];
    c[row * columns + column] = sum;
}
__kernel void descend(long n, float rate, const __global float *slope, __global float *velocity, __global float *p, long p_at) {
    const long i = get_global_id(0);
    if (i >= n) return;
    velocity[i] = 0.9f * velocity[i] - rate * slope[i];
    p[p_at + i] += velocity[i];
}
"""
GROUP = 16  # work-items that run together: a size that is left to the runtime may be compiled for each shape anew


class Device:
    """Matrix products, steps and new arrays on softcore's queue."""

    def __init__(self):
        import pyopencl as cl
        import pyopencl.array

        self.queue, self.pool, self.arrays = sc.opencl.queue(), sc.opencl.memory_pool(), cl.array
        program = cl.Program(self.queue.context, SOURCE).build()
        self.multiply, self.step_down = cl.Kernel(program, "product"), cl.Kernel(program, "descend")
        self.multiply.set_scalar_arg_dtypes([np.int64] * 3 + [None, *[np.int64] * 3] * 2 + [None, np.int64, None])
        self.step_down.set_scalar_arg_dtypes([np.int64, np.float32, None, None, None, np.int64])
        self.ones = self.zeros(1, 2048) + 1

    def zeros(self, *shape):
        return self.arrays.zeros(self.queue, shape, np.float32, allocator=self.pool)

    def product(self, a, b, bias=None):
        """a @ b + bias, whatever the strides of a and b."""
        (rows, n), columns = a.shape, b.shape[1]
        c = self.arrays.empty(self.queue, (rows, columns), np.float32, allocator=self.pool)
        given = [part for x in (a, b) for part in (x.base_data, x.offset // 4, x.strides[0] // 4, x.strides[1] // 4)]
        given += [None, 0] if bias is None else [bias.base_data, bias.offset // 4]
        self._run(self.multiply, (columns, rows), (a, b, c, *([] if bias is None else [bias])), rows, columns, n, *given, c.base_data)
        return c

    def descend(self, p, velocity, slope, rate):
        """velocity = 0.9 velocity - rate slope; p += velocity."""
        given = p.size, rate, slope.base_data, velocity.base_data, p.base_data, p.offset // 4
        self._run(self.step_down, (p.size, 1), (slope, velocity, p), *given)

    def _run(self, kernel, size, arrays, *given):
        # Arrays carry the events of kernels that use them. The queue is in order, so the last one is enough.
        event = kernel(self.queue, (-(-size[0] // GROUP) * GROUP, size[1]), (GROUP, 1), *given)
        for a in arrays:
            a.events[:] = [event]


# %%
# The network
# -----------


def start(rng, widths=(64, 96, 10)):
    """The weights and biases of each layer, as NumPy arrays."""
    parameters = []
    for inputs, outputs in zip(widths, widths[1:]):
        weights = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        parameters += [weights.astype(np.float32), np.zeros((1, outputs), np.float32)]
    return parameters


def forward(device, parameters, x):
    """The hidden layer before and after its relu, and the logits."""
    w1, b1, w2, b2 = parameters
    z = device.product(x, w1, b1)
    h = sc.relu(z)
    return z, h, device.product(h, w2, b2)


def gradients(device, parameters, x, one_hot, loss):
    """The gradient of the mean cross-entropy by each parameter; that mean goes to `loss`, an array without axes."""
    _, _, w2, _ = parameters
    z, h, logits = forward(device, parameters, x)
    _, ds = sc.cross_entropy_with_grad(logits, one_hot, out=(loss, logits))  # over the logits
    dz = sc.relu_backward(device.product(ds, w2.T), z)
    ones = device.ones[:, : len(x)]  # times these, columns are summed
    return device.product(x.T, dz), device.product(ones, dz), device.product(h.T, ds), device.product(ones, ds)


# %%
# Training
# --------


@dataclass
class Trained:
    """What came down."""

    device: str
    losses: np.ndarray  # of each step
    probabilities: np.ndarray  # of the digits held out
    images: np.ndarray  # these digits
    labels: np.ndarray
    queued: float  # seconds until Python had put all its calls on the queue
    seconds: float  # until the device was done

    @property
    def predictions(self):
        return sc.argmax(self.probabilities)

    @property
    def accuracy(self):
        return float(np.mean(self.predictions == self.labels))


def cut(flat, shapes):
    """Views of an array, one after the other, of these shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [flat[end - int(np.prod(shape)) : end].reshape(shape) for end, shape in zip(ends.tolist(), shapes)]


def train(epochs, batch=32, rate=0.1, seed=0):
    """Stochastic gradient descent with momentum on four fifths of the digits."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))  # once, before they go up: a batch is a slice
    images, labels = digits.images[order].astype(np.float32) / 16, digits.target[order]
    pixels, one_hot, n = images.reshape(-1, 64), np.eye(10, dtype=np.float32)[labels], len(labels) * 4 // 5
    batches = [slice(first, first + batch) for first in range(0, n - batch + 1, batch)]
    steps, left = epochs * len(batches), len(labels) - n
    host = [pixels, one_hot, *start(rng)]

    device = Device()
    up = sc.opencl.to_device(np.concatenate([a.reshape(-1) for a in host]), allocator=device.pool)  # the upload
    x, y, *parameters = cut(up, [a.shape for a in host])
    velocities = [device.zeros(*p.shape) for p in parameters]
    down = device.zeros(steps + left * 10)
    losses, probabilities = cut(down, [(steps,), (left, 10)])

    began, step = time.perf_counter(), 0
    for epoch in tqdm(range(epochs), desc="putting on the queue", unit="epoch", ncols=100):
        pace = rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for i in rng.permutation(len(batches)):
            slopes = gradients(device, parameters, x[batches[i]], y[batches[i]], losses[step])
            for p, velocity, slope in zip(parameters, velocities, slopes):
                device.descend(p, velocity, slope, pace)
            step += 1
    sc.softmax(forward(device, parameters, x[n:])[2], out=probabilities)
    queued = time.perf_counter() - began
    found = down.get()  # the download
    seconds = time.perf_counter() - began
    name = device.queue.device.name.strip()
    return Trained(name, found[:steps], found[steps:].reshape(left, 10), images[n:], labels[n:], queued, seconds)


# %%
# The picture
# -----------


def draw(trained, picture):
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.1])
    axes = left.subplots()
    steps = np.arange(1, len(trained.losses) + 1)
    smooth = np.convolve(trained.losses, np.ones(50) / 50, "valid")
    axes.semilogy(steps, trained.losses, color=GREY, linewidth=0.6)
    axes.semilogy(steps[len(steps) - len(smooth) :], smooth, color=BLUE)
    axes.set_xlabel("step")
    axes.set_title("loss of each step, kept on the device until the end", loc="left", fontsize=10)
    unsure = np.argsort(np.max(trained.probabilities, axis=-1))[:8]
    right.suptitle(
        f"{trained.accuracy:.1%} of {len(trained.labels)} held-out digits right; the least sure of", x=0.02, ha="left", fontsize=10
    )
    for k, (image, bars) in zip(unsure, right.subplots(4, 4).reshape(2, 2, 4).transpose(0, 2, 1).reshape(8, 2)):
        image.imshow(trained.images[k], cmap="gray_r")
        image.set_axis_off()
        colours = [BLUE if digit == trained.labels[k] else GREY for digit in range(10)]
        bars.bar(range(10), trained.probabilities[k], color=colours)
        bars.set_ylim(0, 1)
        bars.set_xticks(range(10))
        bars.set_yticks([])
        bars.tick_params(length=0, labelsize=7)
        bars.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def missing():
    """Why there is nothing to run on, in a line; None where there is."""
    try:
        sc.opencl.queue()
        sc.relu(sc.opencl.to_device(np.zeros(4, np.float32))).get()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--picture", metavar="PATH", default="opencl_digits.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    reason = missing()
    if reason:
        print(f"not run, for want of a device: {reason}")
        return None
    trained = train(10 if options.quick else 40)
    right = int(np.sum(trained.predictions == trained.labels))
    print(f"{right} of {len(trained.labels)} right, {trained.accuracy:.1%}, on {trained.device}")
    print(f"{len(trained.losses)} steps: Python was through after {trained.queued:.1f} s, the device after {trained.seconds:.1f} s")
    draw(trained, options.picture)
    print(f"picture: {options.picture}")
    return trained


if __name__ == "__main__":
    main()
