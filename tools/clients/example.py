"""Starts the server that is named and asks it what OpenAI's client can ask. Exits with 1 at the first wrong answer."""

import concurrent.futures
import math
import signal
import subprocess
import sys
import urllib.request

import openai

from asked import CAT, FELINE, MARKET, check_order, refused


def check(address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    create = client.embeddings.create

    # By default the client asks for base64.
    answer = create(model="any", input=[CAT, FELINE, MARKET])
    cat, feline, market = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1, 2]
    check_order(cat, feline, market)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 15, answer.usage
    # A decimal and the four bytes say the same.
    assert create(model="any", input=CAT, encoding_format="float").data[0].embedding == cat
    short = create(model="any", input=CAT, dimensions=64).data[0].embedding
    assert len(short) == 64 and abs(math.hypot(*short) - 1) < 1e-5
    one, two = create(model="any", input=[[5, 6, 7, 0], [8, 9, 0]]).data
    assert create(model="any", input=[8, 9, 0]).data[0].embedding == two.embedding != one.embedding

    refused(lambda: create(model="any", input=[]), openai.BadRequestError, "input is empty")
    refused(lambda: create(model="any", input=CAT, dimensions=9999), openai.BadRequestError, "9999")
    error = refused(lambda: create(model="any", input=[[2**31]]), openai.BadRequestError, "vocabulary")
    assert error.type == "invalid_request_error", error.type
    late = {"x-request-timeout-ms": "0"}
    late = refused(lambda: create(model="any", input=CAT, extra_headers=late), openai.InternalServerError, "timeout")
    assert late.status_code == 504
    refused(lambda: client.models.list(), openai.NotFoundError, "/v1/embeddings")

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        texts = [f"text number {number}" for number in range(200)]
        apart = list(threads.map(lambda text: create(model="any", input=text).data[0].embedding, texts))
    together = [item.embedding for item in create(model="any", input=texts).data]
    assert apart == together

    with urllib.request.urlopen(f"{address}/metrics") as metrics:
        assert b'mlx_embed_requests_total{model="(built-in model)",outcome="done"}' in metrics.read()


def main():
    server = subprocess.Popen([sys.argv[1], "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        check(server.stdout.readline().removeprefix("listening on ").strip())
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=10) == 0, server.returncode
    finally:
        server.kill()
    print("OpenAI's client", openai.__version__, "got what it asked for")


main()
