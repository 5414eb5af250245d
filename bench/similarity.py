"""Plain similarity search in vectors of any model: recall per byte beside faiss."""

from __future__ import annotations

import argparse
import ast
import json
import math
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from quality import circumstances

from peel_ext import ElasticEmbedding

#: Best rows that are looked for, and queries that are held out to ask for them.
DEPTH, QUERIES = 10, 1_000

Array = NDArray[np.float32]


# ---- vectors ----


def read_sentences(count: int) -> list[str]:
    """First paragraphs of docstrings of the standard library and what is installed, shuffled."""
    paths = sysconfig.get_paths()
    found: dict[str, None] = {}
    for root in (paths["stdlib"], paths["purelib"]):
        for path in sorted(Path(root).rglob("*.py")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                    if 40 <= len(text) <= 200:
                        found[text] = None
    order = np.random.default_rng(0).permutation(len(found))
    sentences = sorted(found)
    return [sentences[each] for each in order[:count]]


def embed_sentences(folder: Path) -> tuple[Array, Array]:
    """21,000 sentences through a sentence transformer in a folder, mean of tokens, length 1."""
    from transformers import AutoModel, AutoTokenizer

    sentences = read_sentences(20_000 + QUERIES)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    vectors = np.zeros((len(sentences), model.config.hidden_size), np.float32)
    order = sorted(range(len(sentences)), key=lambda each: len(sentences[each]))
    with torch.inference_mode():
        for first in range(0, len(order), 64):
            some = order[first : first + 64]
            batch = tokenizer(
                [sentences[each] for each in some], padding=True, truncation=True, max_length=128,
                return_tensors="pt",
            )  # fmt: skip
            tokens, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            vectors[some] = ((tokens * mask).sum(dim=1) / mask.sum(dim=1)).numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:-QUERIES], vectors[-QUERIES:]


def embed_words(dim: int = 300) -> tuple[Array, Array]:
    """Words of docstrings, by the singular vectors of their positive pointwise mutual information."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.utils.extmath import randomized_svd

    counter = CountVectorizer(max_features=16_000, token_pattern=r"[a-z]{2,}", binary=True)
    documents = counter.fit_transform(read_sentences(200_000)).astype(np.float64)
    together = (documents.T @ documents).tocoo()
    each = np.asarray(documents.sum(axis=0)).ravel()
    mutual = np.log(together.data * documents.shape[0] / each[together.row] / each[together.col])
    positive = csr_matrix((np.maximum(mutual, 0), (together.row, together.col)), together.shape)
    left, values, _ = randomized_svd(positive, dim, random_state=0)
    vectors = (left * np.sqrt(values)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    vectors = vectors[np.random.default_rng(0).permutation(len(vectors))]
    return vectors[:-QUERIES], vectors[-QUERIES:]


def factorise(folder: Path, dim: int = 128) -> tuple[Array, Array, Array]:
    """Items of implicit's ALS, users who ask for the largest inner products, and other users."""
    import implicit
    from scipy.sparse import csr_matrix

    from peel_ext.data import read_interactions

    made = read_interactions(folder / "train.parquet")
    ones = np.ones(len(made.user_rows), np.float32)
    matrix = csr_matrix((ones, (made.user_rows, made.item_rows)))
    model = implicit.als.AlternatingLeastSquares(
        factors=dim, alpha=40, iterations=10, random_state=0, num_threads=1
    )
    model.fit(matrix, show_progress=False)
    users = model.user_factors[np.random.default_rng(0).permutation(matrix.shape[0])]
    return np.ascontiguousarray(model.item_factors), users[:QUERIES], users[QUERIES:]


# ---- what is compared ----


def rank_exactly(vectors: Array, queries: Array) -> NDArray[np.int64]:
    scores = torch.from_numpy(queries) @ torch.from_numpy(vectors).T
    return scores.topk(DEPTH).indices.numpy()


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    return float((found[:, :, None] == exact[:, None, :]).any(axis=1).mean())


def rival_specs(n: int, dim: int, limit: float, *, all_bytes: bool) -> Iterator[tuple[str, int]]:
    """faiss's indexes that come nearest to a limit, and their bytes.

    All bytes are those of the codes and of what decoding needs: codebooks, matrices, ranges, means.
    """
    learned = 4 if all_bytes else 0

    def divisors(width: int) -> list[int]:
        return [parts for parts in range(1, width // 2 + 1) if width % parts == 0]

    widths = [
        width
        for width in (dim, dim * 3 // 4, dim // 2, dim // 3, dim // 4, dim // 6, dim // 8)
        if width
    ]
    for bits in (8, 4):
        fits = [
            (parts, n * math.ceil(parts * bits / 8) + learned * 2**bits * dim)
            for parts in divisors(dim)
        ]
        fits = [each for each in fits if each[1] <= limit]
        if fits:
            yield f"PQ{fits[-1][0]}x{bits}", fits[-1][1]
    for bits in (8, 4):
        for width in widths:
            fits = [
                (parts, n * math.ceil(parts * bits / 8) + learned * width * (2**bits + dim))
                for parts in divisors(width)
            ]
            fits = [each for each in fits if each[1] <= limit]
            if fits and (width == dim or fits[-1][1] > 0.6 * limit):
                yield f"OPQ{fits[-1][0]}_{width},PQ{fits[-1][0]}x{bits}", fits[-1][1]
                break
    for kind, bits in (("SQ8", 8), ("SQ6", 6), ("SQ4", 4)):
        for width in widths:
            turned = learned * dim * (width + 1) if width < dim else 0
            nbytes = n * math.ceil(width * bits / 8) + learned * 2 * width + turned
            if nbytes <= limit:
                yield kind if width == dim else f"PCA{width},{kind}", nbytes
                break
    for bits in (1, 2, 4, 8):
        for width in widths:
            for before in ("", "RR") if width == dim else ("PCAR",):
                turned = learned * dim * (width + 1) if before else 0
                name = f"{before}{width}," if before else ""
                name += f"RaBitQ{bits}" if bits > 1 else "RaBitQ"
                index = faiss.index_factory(dim, name, faiss.METRIC_INNER_PRODUCT)
                nbytes = n * index.sa_code_size() + learned * width + turned
                if nbytes <= limit:
                    yield name, nbytes
            if nbytes <= limit:
                break


def measure_rival(spec: str, vectors: Array, queries: Array, exact: NDArray[np.int64]) -> float:
    index = faiss.index_factory(vectors.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    if spec.startswith("OPQ"):
        matrix = faiss.downcast_VectorTransform(index.chain.at(0))
        matrix.niter, matrix.max_train_points = 5, 20_000
    if "PQ" in spec:
        # What numbers centroids have is of no meaning here, and to choose them takes most of the time.
        quantizer = faiss.downcast_index(index.index) if spec.startswith("OPQ") else index
        quantizer.do_polysemous_training = False
    if spec.startswith("PQ"):  # in two or three dimensions k-means is slow, and soon done
        index.pq.cp.niter = 4 if index.pq.dsub < 4 else 10
    index.train(vectors)
    index.add(vectors)
    return recall(index.search(queries, DEPTH)[1], exact)


def measure(
    name: str, vectors: Array, queries: Array, asked: Array | None, shares: list[float]
) -> Iterator[dict[str, Any]]:
    """Rows of ours and of all rivals at each share of the float32 bytes."""
    n, dim = vectors.shape
    exact = rank_exactly(vectors, queries)
    began = time.process_time()
    table = ElasticEmbedding.from_vectors(
        torch.from_numpy(vectors), None if asked is None else torch.from_numpy(asked)
    )
    facts = {"vectors": name, "num": n, "dim": dim, "queries": len(queries)}
    made = {"rotated": table.rotation is not None, "seconds": round(time.process_time() - began, 1)}
    turned = table.rotate(torch.from_numpy(queries)).numpy()
    beside = 4 * dim + (0 if table.rotation is None else 4 * dim * dim)
    known: dict[str, float] = {}
    for all_bytes in (True, False):
        counted = "all" if all_bytes else "codes"
        for share in shares:
            limit = math.floor(share * 4 * n * dim)
            held = table.generate(0, limit - (beside if all_bytes else 0))
            nbytes = held.nbytes + (beside if all_bytes else 0)
            found = recall(held.score(turned, DEPTH)[0], exact)
            yield facts | made | {
                "counted": counted, "share": share, "variant": "peel", "family": "peel",
                "bytes": nbytes, "rows": len(held.row_ids), "recall": round(found, 4),
            }  # fmt: skip
            for spec, rival_bytes in rival_specs(n, dim, limit, all_bytes=all_bytes):
                if spec not in known:
                    known[spec] = measure_rival(spec, vectors, queries, exact)
                family = "OPQ" if "OPQ" in spec else spec.split(",")[-1].rstrip("0123456789x")
                yield facts | {
                    "counted": counted, "share": share, "variant": spec, "family": family,
                    "bytes": rival_bytes, "recall": round(known[spec], 4),
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source",
        help="'words'; a folder with train.parquet; one with a sentence transformer's files; or a .npy "
        f"file whose last {QUERIES} rows are the queries",
    )
    parser.add_argument("--shares", default=".25,.1,.05,.01")
    parser.add_argument("--append", type=Path)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    asked = None
    source = Path(options.source)
    if options.source == "words":
        name, (vectors, queries) = "words", embed_words()
    elif (source / "train.parquet").exists():
        name, (vectors, queries, asked) = f"ALS on {source.name}", factorise(source)
    elif source.suffix == ".npy":
        vectors = np.load(source)
        name, vectors, queries = source.stem, vectors[:-QUERIES], vectors[-QUERIES:]
    else:
        name, (vectors, queries) = "sentences", embed_sentences(source)
    shares = [float(share) for share in options.shares.split(",")]
    known = circumstances()
    for row in measure(name, vectors, queries, asked, shares):
        print(
            f"{row['counted']:6}{row['share']:7.1%} {row['variant']:22}"
            f"{row['bytes']:11,} {row['recall']:.4f}",
            flush=True,
        )
        if options.append is not None:
            with options.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | known) + "\n")


if __name__ == "__main__":
    main()
