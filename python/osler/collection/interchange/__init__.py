"""Import and export: usearch, NumPy and Parquet files, for collections and for `osler.Index`.

Names only; each format has a file of its own.
"""

from osler.collection.interchange.tables import export_npy, export_parquet, import_npy, import_parquet
from osler.collection.interchange.usearch import export_usearch, import_usearch, read_usearch

__all__ = [
    "export_npy",
    "export_parquet",
    "export_usearch",
    "import_npy",
    "import_parquet",
    "import_usearch",
    "read_usearch",
]
