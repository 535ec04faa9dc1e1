"""Tables that others wrote in, Parquet that others read out: pyarrow and polars beside `mlx-embed embed`.

tables.py MLX_EMBED: exits with 1 where a table can't be read, or reads as something else.
"""

import json
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

program = sys.argv[1]
ROWS = 300
DIMS = 384
TEXTS = [None if row % 100 == 99 else f"Row {row} tells of the number {row * 7919 % 1000}." for row in range(ROWS)]


def embed(source: Path, target: Path, *options: str) -> None:
    command = [program, "embed", "--quiet", "--input", source, "--field", "body", "--output", target, *options]
    subprocess.run(command, check=True)


def check(what: str, found, expected) -> None:
    if found != expected:
        sys.exit(f"{what}: {found!r}, expected {expected!r}")
    print(f"ok: {what}")


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    columns = {
        "id": pa.array(range(ROWS), pa.int64()),
        "url": pa.array([f"https://example.org/{row % 7}" for row in range(ROWS)]).dictionary_encode(),
        "price": pa.array([Decimal(row) / 4 for row in range(ROWS)], pa.decimal128(10, 2)),
        "seen": pa.array([datetime(2026, 1, 1 + row % 28, tzinfo=timezone.utc) for row in range(ROWS)]),
        "tags": pa.array([["a", "b"][: row % 3] for row in range(ROWS)]),
        "body": pa.array(TEXTS),
    }
    source = folder / "docs.parquet"
    table = pa.table(columns)
    pq.write_table(table, source, row_group_size=70)
    kept = ["id", "url", "price", "seen", "tags"]
    embed(source, folder / "f32.parquet", "--keep", ",".join(kept), "--row-group", "128")
    found = pq.read_table(folder / "f32.parquet")
    check("columns", found.column_names, [*kept, "embedding"])
    for name in kept:
        check(f"{name} is what it was", found[name].to_pylist(), table[name].to_pylist())
        check(f"type of {name}", found.schema.field(name).type, table.schema.field(name).type)
    vectors = found["embedding"].combine_chunks()
    check("nulls", [row for row in range(ROWS) if not vectors[row].is_valid], [99, 199, 299])
    check("type of the vectors", (vectors.type.list_size, vectors.type.value_type), (DIMS, pa.float32()))
    f32 = np.array(vectors.drop_null().to_pylist(), dtype=np.float32)

    lines = folder / "docs.txt"
    lines.write_text("".join(f"{text}\n" for text in TEXTS if text is not None))
    npy = folder / "vectors.npy"
    subprocess.run([program, "embed", "--quiet", "--input", lines, "--output", npy], check=True)
    check("vectors are those of .npy", f32.tobytes(), np.load(npy).tobytes())
    metadata = {key.decode(): value.decode() for key, value in pq.read_schema(folder / "f32.parquet").metadata.items()}
    check("dims in the metadata", metadata["mlx_embed.dims"], str(DIMS))
    check("model in the metadata", metadata["mlx_embed.model"], "built-in")

    for dtype, kind in [("f16", pa.float16()), ("int8", pa.int8()), ("binary", pa.uint8())]:
        target = folder / f"{dtype}.parquet"
        embed(source, target, "--dtype", dtype)
        vectors = pq.read_table(target)["embedding"].combine_chunks()
        check(f"{dtype}: type", vectors.type.value_type, kind)
        numbers = np.array(vectors.drop_null().to_pylist())
        if dtype == "f16":
            check("f16: numbers", numbers.astype(np.float16).tobytes(), f32.astype(np.float16).tobytes())
        elif dtype == "binary":
            check("binary: bits", numbers.astype(np.uint8).tobytes(), np.packbits(f32 > 0, axis=1).tobytes())
        else:
            ranges = pq.read_schema(target).metadata[b"mlx_embed.ranges"]
            least, largest = np.array(json.loads(ranges), dtype=np.float32)
            check("int8: ranges", (least.tolist(), largest.tolist()), (f32.min(0).tolist(), f32.max(0).tolist()))
            steps = (largest - least) / 255
            expected = np.floor((f32 - least) / np.where(steps == 0, 1, steps)) - 128
            check("int8: numbers", int(np.abs(numbers - expected).max()) <= 1, True)

    for name in ["f32", "f16", "int8", "binary"]:
        vectors = pl.read_parquet(folder / f"{name}.parquet")["embedding"]
        check(f"polars reads {name}", (len(vectors), vectors.null_count(), len(vectors[0])), (ROWS, 3, DIMS if name != "binary" else DIMS // 8))
    check("polars reads the numbers", pl.read_parquet(folder / "f32.parquet")["embedding"].drop_nulls().to_numpy().tobytes(), f32.tobytes())

    for name, write in {
        "snappy": lambda path: pq.write_table(table, path, compression="snappy"),
        "gzip, small pages": lambda path: pq.write_table(table, path, compression="gzip", data_page_size=512),
        "lz4": lambda path: pq.write_table(table, path, compression="lz4"),
        "zstd, no dictionary, pages of version 2": lambda path: pq.write_table(
            table, path, compression="zstd", use_dictionary=False, data_page_version="2.0"
        ),
        "large strings": lambda path: pq.write_table(table.set_column(5, "body", table["body"].cast(pa.large_string())), path),
        "string views": lambda path: pq.write_table(table.set_column(5, "body", table["body"].cast(pa.string_view())), path),
        "dictionary": lambda path: pq.write_table(table.set_column(5, "body", table["body"].dictionary_encode()), path),
        "polars": lambda path: pl.from_arrow(table).write_parquet(path),
    }.items():
        path = folder / "other.parquet"
        write(path)
        target = folder / "other-vectors.parquet"
        target.unlink(missing_ok=True)
        embed(path, target)
        vectors = pq.read_table(target)["embedding"].combine_chunks()
        check(f"reads {name}", np.array(vectors.drop_null().to_pylist(), dtype=np.float32).tobytes(), f32.tobytes())
