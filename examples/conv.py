"""A convolutional network
=======================

A small one learns handwritten digits, with nothing but NumPy and softcore for the arithmetic::

    image 8 x 8 -> convolution -> relu -> max_pool 2 x 2 -> convolution -> relu -> max_pool 2 x 2 -> linear -> cross_entropy

A convolution is a matrix product in disguise: NumPy's sliding_window_view shows the 3 x 3 patch around each pixel, one reshape makes a
row of each ("im2col"), and the filters are the columns of a matrix. Backwards, the gradient of each patch is added up where the patch
came from. The loss comes with its gradient by the logits, and from there each layer's backward hands the gradient to the layer before.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (1998) 2278-2324.
"""

import argparse
import time

import matplotlib
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits
from tqdm import tqdm

import softcore as sc

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SIZE = 3  # of a filter: SIZE x SIZE pixels
BLUE, RED, GREY = "#2b6ca3", "#c8442e", "#c3cad2"


# %%
# The layers
# ----------
#
# Arrays are (batch, height, width, channel).


def patches(x):
    """The SIZE x SIZE patch around each pixel, as a row: (batch, height, width, channel * SIZE * SIZE)."""
    edge = SIZE // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    return sliding_window_view(padded, (SIZE, SIZE), axis=(1, 2)).reshape(*x.shape[:3], -1)


def patches_backward(drows, shape):
    """The gradient of each patch, added up where its pixels came from."""
    n, height, width, channels = shape
    edge = SIZE // 2
    drows = drows.reshape(n, height, width, channels, SIZE, SIZE)
    dpadded = np.zeros((n, height + 2 * edge, width + 2 * edge, channels), drows.dtype)
    for i in range(SIZE):
        for j in range(SIZE):
            dpadded[:, i : i + height, j : j + width] += drows[..., i, j]
    return dpadded[:, edge:-edge, edge:-edge]


def block(x, filters, bias):
    """Convolution, relu and max_pool; and what backward needs of them."""
    rows = patches(x)
    z = rows @ filters + bias
    a = sc.relu(z)
    y, indices = sc.max_pool(a, (2, 2), layout="channels_last", return_indices=True)
    return y, (x.shape, rows, z, indices)


def block_backward(dy, filters, saved):
    """The gradients by x, by the filters and by the bias."""
    shape, rows, z, indices = saved
    da = sc.max_pool_backward(dy, indices, z.shape, layout="channels_last")
    dz = sc.relu_backward(da, z)
    dfilters = rows.reshape(-1, rows.shape[-1]).T @ dz.reshape(-1, dz.shape[-1])
    return patches_backward(dz @ filters.T, shape), dfilters, dz.sum((0, 1, 2))


# %%
# The network
# -----------


def start(rng, channels=(12, 24), dtype=np.float32):
    """Random weights and zero biases, layer after layer."""
    first, second = channels
    shapes = [(SIZE * SIZE, first), (SIZE * SIZE * first, second), (2 * 2 * second, 10)]
    parameters = []
    for inputs, outputs in shapes:
        weights = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        parameters += [weights.astype(dtype), np.zeros(outputs, dtype)]
    return parameters


def forward(parameters, x):
    """The logits, and what backward needs."""
    w1, b1, w2, b2, w3, b3 = parameters
    h, first = block(x, w1, b1)
    h, second = block(h, w2, b2)
    flat = h.reshape(len(x), -1)
    return flat @ w3 + b3, (first, second, flat, h.shape)


def gradients(parameters, x, labels):
    """The gradient of the mean cross-entropy by each parameter, and that mean."""
    w1, _, w2, _, w3, _ = parameters
    logits, (first, second, flat, shape) = forward(parameters, x)
    loss, dlogits = sc.cross_entropy_with_grad(logits, labels)
    dh = (dlogits @ w3.T).reshape(shape)
    dh, dw2, db2 = block_backward(dh, w2, second)
    _, dw1, db1 = block_backward(dh, w1, first)
    return [dw1, db1, dw2, db2, flat.T @ dlogits, dlogits.sum(0)], loss


def digits(seed=0):
    """Images (n, 8, 8, 1) and labels, in random order: four fifths to train on, and a fifth held out."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images, labels = data.images[order, :, :, None].astype(np.float32) / 16, data.target[order]
    n = len(labels) * 4 // 5
    return (images[:n], labels[:n]), (images[n:], labels[n:])


def accuracy(parameters, x, labels):
    return float(np.mean(sc.argmax(forward(parameters, x)[0]) == labels))


def train(training, held_out, epochs, batch=32, rate=0.05, seed=0):
    """Stochastic gradient descent with momentum; the parameters, and for each epoch the loss and the accuracy held out."""
    rng = np.random.default_rng(seed)
    x, labels = training
    parameters = start(rng)
    velocity = [np.zeros_like(p) for p in parameters]
    curve = []
    bar = tqdm(range(epochs), desc="training", unit="epoch", ncols=100)
    for epoch in bar:
        step = rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        losses = []
        for rows in np.array_split(rng.permutation(len(x)), len(x) // batch):
            slopes, loss = gradients(parameters, x[rows], labels[rows])
            losses.append(loss)
            for p, v, dp in zip(parameters, velocity, slopes):
                v *= 0.9
                v -= step * dp
                p += v
        curve.append((np.mean(losses), accuracy(parameters, *held_out)))
        bar.set_postfix(loss=f"{curve[-1][0]:.4f}", held_out=f"{curve[-1][1]:.1%}")
    return parameters, np.array(curve)


# %%
# The picture
# -----------


def draw(parameters, curve, held_out, picture):
    """The learning curve, the first filters, and the held-out digits the network was least sure of."""
    figure = plt.figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, wspace=0.04)
    top, bottom = left.subfigures(2, 1, height_ratios=[1.5, 1])

    axes = top.subplots()
    epochs = np.arange(1, len(curve) + 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.semilogy(epochs, curve[:, 0], color=BLUE, label="training loss")
    axes.semilogy(epochs, 1 - curve[:, 1], color=RED, label="held-out error")
    axes.set_xlabel("epoch")
    axes.set_title(f"{curve[-1, 1]:.1%} of {len(held_out[1])} held-out digits right", loc="left")
    axes.legend(frameon=False)

    bottom.suptitle("The filters of the first convolution (blue: more ink, red: less)", x=0.02, ha="left")
    filters = parameters[0].T.reshape(-1, SIZE, SIZE)
    largest = np.abs(filters).max()
    for axes, image in zip(bottom.subplots(2, 6).flat, filters):
        axes.imshow(image, cmap="RdBu", vmin=-largest, vmax=largest)
        axes.set_axis_off()

    images, labels = held_out
    p = sc.softmax(forward(parameters, images)[0])
    taken = sc.argmax(p)
    right.suptitle("The digits it was least sure of (blue: what it is, red: what it was taken for)", x=0.02, ha="left")
    grid = right.subplots(4, 4, height_ratios=[1.25, 1, 1.25, 1])
    for place, k in enumerate(np.argsort(p[np.arange(len(p)), labels], kind="stable")[:8]):
        row, column = divmod(place, 4)
        image, bars = grid[2 * row, column], grid[2 * row + 1, column]
        image.imshow(images[k, :, :, 0], cmap="gray_r")
        image.set_title(f"{labels[k]}" if taken[k] == labels[k] else f"{labels[k]}, taken for {taken[k]}", fontsize=10)
        image.set_axis_off()
        colours = [BLUE if i == labels[k] else RED if i == taken[k] else GREY for i in range(10)]
        bars.bar(range(10), p[k], color=colours)
        bars.set_ylim(0, 1)
        bars.set_xticks(range(10))
        bars.set_yticks([])
        bars.tick_params(length=0, labelsize=8)
        bars.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    parser.add_argument("--picture", metavar="PATH", default="conv.png", help="where to write the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    training, held_out = digits()
    begun = time.perf_counter()
    parameters, curve = train(training, held_out, epochs=6 if options.quick else 20)
    print(f"trained on {len(training[1])} digits in {time.perf_counter() - begun:.1f} s")
    print(f"held out: {round(curve[-1, 1] * len(held_out[1]))} of {len(held_out[1])} right, {curve[-1, 1]:.1%}")
    draw(parameters, curve, held_out, options.picture)
    print(f"picture: {options.picture}")
    return curve[-1, 1]


if __name__ == "__main__":
    main()
