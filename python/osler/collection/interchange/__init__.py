"""Import and export: usearch, faiss, hnswlib, NumPy and Parquet files, for collections and for `osler.Index`.

Names only; each format has a file of its own.
"""

from osler.collection.interchange.faiss import export_faiss, import_faiss, is_faiss, read_faiss
from osler.collection.interchange.hnswlib import export_hnswlib, import_hnswlib, read_hnswlib
from osler.collection.interchange.tables import export_npy, export_parquet, import_npy, import_parquet
from osler.collection.interchange.usearch import export_usearch, import_usearch, read_usearch

__all__ = [
    "export_faiss",
    "export_hnswlib",
    "export_npy",
    "export_parquet",
    "export_usearch",
    "import_faiss",
    "import_hnswlib",
    "import_npy",
    "import_parquet",
    "import_usearch",
    "is_faiss",
    "read_faiss",
    "read_hnswlib",
    "read_usearch",
]
