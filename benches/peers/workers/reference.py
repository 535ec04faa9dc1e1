"""mlx-lm's vectors in f32: reference.py CHECKPOINT SENTENCE IDS-AS-JSON

Prints {"sentence": [..], "ids": [[..], ..]}: last token, normalised. The sentence is tokenised
with the checkpoint's own tokenizer, end token included.
"""

import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mlx_lm_worker import last_hidden, load
from serve import normalise, reserve_stdout


def main() -> None:
    answers = reserve_stdout()
    folder, sentence, ids = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    model, _ = load(folder)
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(sentence).ids
    vectors = {
        "sentence": normalise(last_hidden(model, np.array([encoded])))[0].tolist(),
        "ids": normalise(last_hidden(model, np.array(ids))).tolist(),
    }
    print(json.dumps(vectors), file=answers)


if __name__ == "__main__":
    main()
