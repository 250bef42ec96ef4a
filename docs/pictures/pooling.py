from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import softcore as sc

x = load_digits().images[8]
y, indices = sc.max_pool(x, (2, 2), return_indices=True)
images = {
    "x, 8 x 8": x,
    "max_pool": y,
    "softmax_pool": sc.softmax_pool(x / 4, (2, 2)) * 4,
    "avg_pool": sc.avg_pool(x, (2, 2)),
    "max_unpool": sc.max_unpool(y, indices, x.shape),
}
figure, grid = plt.subplots(1, 5, figsize=(9.4, 2.2))
for axes, (name, image) in zip(grid, images.items()):
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=16)
    axes.set_title(name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#c3cad2")
