"""Prints what sentence-transformers' quantize_embeddings makes of the rows in mlx-embed/cli/src/output/numbers.rs.

    python3 tests/golden/quantized.py        (sentence-transformers 6.2.0 printed what stands there)
"""

import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings

ROWS = np.array(
    [
        [0.5, -0.25, 0.0, 0.125, -1.0, 0.75, -0.5, 0.0625, 0.3, -0.3],
        [-0.5, 0.25, 0.0, 0.225, 1.0, -0.75, 0.5, -0.0625, 0.1, 0.2],
        [0.1, 0.2, 0.0, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9, -1.0],
        [0.33, -0.11, 0.0, 0.01, 0.02, 0.03, -0.04, 0.05, -0.06, 0.07],
    ],
    dtype=np.float32,
)

for precision in ("int8", "binary"):
    print(precision, quantize_embeddings(ROWS, precision).tolist())
