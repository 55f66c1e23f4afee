"""Data: a source is a sequence of examples, a run is a line of positions.

A *source* has a length and gives dicts of numpy arrays, `{"data": [*shape], "label": []}`: `digits`,
`synthetic2d`, `image_parquet`, `image_folder`, `npz`, `arrays` in memory, `shards` on disk that `pack` wrote,
`mix` of several, or `wrap` around anything with `__len__` and `__getitem__`. Calling one opens it; a name in
`SOURCES` with its options describes it without touching a file.

A *run* sees the permutations of its epochs end to end, one endless line of positions cut into batches:

    position   0 ...                 n ...                 2n ...
    example    permutation 0       | permutation 1       | ...
    batch      |--- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---| ...

Batch k is a function of (seed, k) and of nothing else. Augmentation draws numbers that belong to positions.
Hence what the loader, `batches`, need remember is the step; killing a run or changing its number of
processes changes neither the order of the examples nor how they are flipped; and images that cannot be read
are named, since an example that vanished in silence would move every position after it.
"""

from gendyn.data.augmentation import Augmentation, Moves
from gendyn.data.catalog import SOURCES, open_source
from gendyn.data.digits import digits
from gendyn.data.foreign import Wrapped, wrap
from gendyn.data.images import image_folder
from gendyn.data.incoming import Incoming, incoming
from gendyn.data.loader import Batches, batches
from gendyn.data.making import Packing
from gendyn.data.mixing import Mixture, mix
from gendyn.data.packing import pack
from gendyn.data.paired import Paired, paired
from gendyn.data.parquet import image_parquet
from gendyn.data.sample_files import SampleFiles, sample_files
from gendyn.data.shard_index import verify
from gendyn.data.shards import Shards, shards
from gendyn.data.sources import Arrays, CorruptData, Source, arrays, npz
from gendyn.data.synthetic import synthetic2d
from gendyn.data.transforms import Positional, RandomCrop, Transform, from_uint8, random_flip, rearranges, to_uint8
from gendyn.data.warping import warp

__all__ = [
    "SOURCES",
    "Arrays",
    "Augmentation",
    "Batches",
    "CorruptData",
    "Incoming",
    "Mixture",
    "Moves",
    "Packing",
    "Paired",
    "Positional",
    "RandomCrop",
    "SampleFiles",
    "Shards",
    "Source",
    "Transform",
    "Wrapped",
    "arrays",
    "batches",
    "digits",
    "from_uint8",
    "image_folder",
    "image_parquet",
    "incoming",
    "mix",
    "npz",
    "open_source",
    "pack",
    "paired",
    "random_flip",
    "rearranges",
    "sample_files",
    "shards",
    "synthetic2d",
    "to_uint8",
    "verify",
    "warp",
    "wrap",
]
