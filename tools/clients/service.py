"""Starts `mlx-embed serve` and asks it with clients that others wrote. Exits with 1 at the first wrong answer."""

import asyncio
import os
import pathlib
import subprocess
import sys
import tempfile

import huggingface_hub
import langchain_openai
import openai
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from asked import CAT, FELINE, MARKET, check_order, refused

FAMILIES = pathlib.Path("tests/golden/families").resolve()
CONFIG = f"""
listen: 127.0.0.1:0
models:
  - name: small
    prompts: {{query: "search: ", document: ""}}
  - {{name: ranker, path: {FAMILIES}/reranker-bert-sigmoid, kind: reranker, load: first-use}}
"""


def close(found, expected):
    """Decimals of f32 are not the f64 that has its bits."""
    for one, other in zip(found, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-6


def check_openai(address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="small", input=[CAT, FELINE, MARKET])
    vectors = [item.embedding for item in answer.data]
    check_order(*vectors)
    assert answer.model == "small" and answer.usage.total_tokens > 15, answer.usage
    decimals = client.embeddings.create(model="small", input=CAT, encoding_format="float")
    close([decimals.data[0].embedding], vectors[:1])
    assert len(client.embeddings.create(model="small", input=CAT, dimensions=64).data[0].embedding) == 64
    query = client.embeddings.create(model="small", input=CAT, extra_body={"input_type": "query"})
    prompted = client.embeddings.create(model="small", input="search: " + CAT)
    assert query.data[0].embedding == prompted.data[0].embedding != vectors[0]
    models = client.models.list().data
    assert [model.id for model in models] == ["small", "ranker"], models
    assert client.models.retrieve("small").model_extra["dimensions"] == 384
    refused(lambda: client.embeddings.create(model="other", input=CAT), openai.NotFoundError, "small")
    refused(lambda: client.embeddings.create(model="small", input=[]), openai.BadRequestError, "input is empty")
    refused(lambda: client.models.retrieve("other"), openai.NotFoundError, "other")
    return vectors


def check_langchain(address, vectors):
    # By default the class counts with tiktoken, which fetches its tables, and sends token ids of a vocabulary of OpenAI's.
    embeddings = langchain_openai.OpenAIEmbeddings(
        model="small", base_url=f"{address}/v1", api_key="none", check_embedding_ctx_length=False, max_retries=0
    )
    close(embeddings.embed_documents([CAT, FELINE, MARKET]), vectors)
    close([embeddings.embed_query(CAT), asyncio.run(embeddings.aembed_query(FELINE))], vectors[:2])


def check_llama_index(address, vectors):
    like = OpenAILikeEmbedding(model_name="small", api_base=f"{address}/v1", api_key="none", max_retries=0)
    close(like.get_text_embedding_batch([CAT, FELINE, MARKET]), vectors)
    close([like.get_query_embedding(CAT)], vectors[:1])
    tei = TextEmbeddingsInference(base_url=address, model_name="small", query_instruction="search:")
    close(tei.get_text_embedding_batch([CAT, FELINE, MARKET]), vectors)
    close([asyncio.run(tei.aget_query_embedding(CAT))], [like.get_text_embedding("search: " + CAT)])


def check_inference_client(address, vectors):
    for path in ["", "/embed"]:
        client = huggingface_hub.InferenceClient(model=address + path)
        close(client.feature_extraction([CAT, FELINE, MARKET]).tolist(), vectors)
        one = client.feature_extraction(CAT, prompt_name="query", normalize=True, truncate=True).tolist()
        assert len(one) == 1 and len(one[0]) == 384
        cut = client.feature_extraction(CAT, truncate=True, truncation_direction="right", dimensions=64)
        assert cut.shape == (1, 64)
    kind = huggingface_hub.errors.HfHubHTTPError
    error = refused(lambda: client.feature_extraction(CAT, truncate=True, truncation_direction="left"), kind, "")
    assert error.response.status_code == 400 and "truncation_direction" in error.response.text


def check_javascript(address, home):
    subprocess.run(["node", home / "javascript/check.mjs", address], check=True)


def check_document(address, home):
    """A request that the document allows, or nearly, gets no 500 and what the document promises."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [home / "bin/schemathesis", "run", f"{address}/openapi.json", "--checks", checks]
    command += ["--max-examples", os.environ.get("EXAMPLES", "100"), "--seed", "1", "--no-color"]
    subprocess.run(command, check=True, cwd=home)


def main():
    program, home = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "serve.yaml")
        config.write_text(CONFIG)
        server = subprocess.Popen([program, "serve", "--config", config], stderr=subprocess.PIPE, text=True)
        try:
            address = server.stderr.readline().removeprefix("listening on ").strip()
            vectors = check_openai(address)
            check_langchain(address, vectors)
            check_llama_index(address, vectors)
            check_inference_client(address, vectors)
            check_javascript(address, home)
            check_document(address, home)
            server.terminate()
            assert server.wait(timeout=60) == 0, server.returncode
        finally:
            server.kill()
    print("the clients of OpenAI, LangChain, LlamaIndex and huggingface_hub got what they asked for")


main()
