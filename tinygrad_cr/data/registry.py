"""The data sets that have a name: where they come from and how their files are told from damaged ones.

Checksums are of decompressed bytes where files are gzipped one by one, as redistributions compress
differently (Debian's ``dataset-fashion-mnist`` holds the same images in other ``.gz`` files).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tinygrad_cr.data.formats import CIFAR10_CLASSES


@dataclass(frozen=True)
class IdxSource:
    """Four IDX files: images and labels of the training and the test part.

    sha256 maps the four names, without ``.gz``, to the SHA-256 of the decompressed bytes, in the order
    training images, training labels, test images, test labels.

    >>> list(SOURCES["mnist"].sha256)[1]
    'train-labels-idx1-ubyte'
    """

    url: str
    sha256: dict[str, str]
    class_names: tuple[str, ...]
    max_bytes: int


@dataclass(frozen=True)
class CifarSource:
    """One ``tar.gz`` of CIFAR-10's binary version, or the folder it unpacks to.

    rows: the sizes of the training and the test part, which tell whether an unpacked folder is whole.

    >>> SOURCES["cifar10"].rows
    (50000, 10000)
    """

    url: str
    archive: str
    folder: str
    sha256: str
    max_bytes: int
    rows: tuple[int, int]
    class_names: tuple[str, ...] = field(default=CIFAR10_CLASSES)


SOURCES: dict[str, IdxSource | CifarSource] = {
    "mnist": IdxSource(
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        class_names=tuple("0123456789"),
        max_bytes=12_000_000,
    ),
    "fashion-mnist": IdxSource(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        class_names=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        max_bytes=32_000_000,
    ),
    "cifar10": CifarSource(
        url="https://www.cs.toronto.edu/~kriz/",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        max_bytes=170_052_171,
        rows=(50_000, 10_000),
    ),
}  # fmt: skip
"""Every named data set but the digits, which the package holds itself."""
