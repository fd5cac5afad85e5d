"""Speaks to the server through the field's own clients, each as its documentation shows, and prints what they made of
the answers. Arguments: base URL, API key."""

import json
import sys

import cohere
import openai
import requests
from cohere.core.api_error import ApiError
from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

BASE, KEY = sys.argv[1:]
MODEL, EMBEDDER = "rerank-v3.5", "text-embedding-3-small"
QUERY = "must my garden swimming place be fenced by regulation"
DOCUMENTS = [
    "Sourdough bread rises slowly in a cold kitchen.",
    "A private basin must have a fence a metre twenty high, with a gate that shuts itself, or the inspector will not be satisfied.",
    "The brake pads of a bicycle squeal in the rain.",
]
HEADERS = {"Authorization": f"Bearer {KEY}"}


def post(path, body):
    response = requests.post(BASE + path, json=body, headers=HEADERS, timeout=60)
    response.raise_for_status()
    return response.json()


def refused(call):
    """The status and the sentence that a Cohere client hands to its user."""
    try:
        call()
    except ApiError as error:
        return [error.status_code, error.body["message"]]
    raise AssertionError("the call was answered")


def cohere_v2():
    client, stranger = (cohere.ClientV2(api_key=key, base_url=BASE) for key in (KEY, "other"))
    answer = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2)
    return {
        "order": [result.index for result in answer.results],
        "scores": [result.relevance_score for result in answer.results],
        "search_units": answer.meta.billed_units.search_units,
        "unknown_model": refused(lambda: client.rerank(model="other", query=QUERY, documents=DOCUMENTS)),
        "no_documents": refused(lambda: client.rerank(model=MODEL, query=QUERY, documents=[])),
        "wrong_key": refused(lambda: stranger.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)),
    }


def cohere_v1():
    client = cohere.Client(api_key=KEY, base_url=BASE)
    answer = client.rerank(model=MODEL, query=QUERY, documents=[{"text": text} for text in DOCUMENTS], return_documents=True)
    return {
        "order": [result.index for result in answer.results],
        "scores": [result.relevance_score for result in answer.results],
        "first": answer.results[0].document.text,
    }


def langchain():
    client = cohere.ClientV2(api_key=KEY, base_url=BASE)
    compressor = CohereRerank(client=client, model=MODEL, top_n=2)
    documents = [Document(page_content=text, metadata={"place": at}) for at, text in enumerate(DOCUMENTS)]
    kept = compressor.compress_documents(documents, QUERY)
    return {
        "order": [document.metadata["place"] for document in kept],
        "scores": [document.metadata["relevance_score"] for document in kept],
    }


def nodes():
    return [NodeWithScore(node=TextNode(text=text, id_=str(at)), score=0.0) for at, text in enumerate(DOCUMENTS)]


def llama_index(reranker):
    kept = reranker.postprocess_nodes(nodes(), query_bundle=QueryBundle(QUERY))
    return {"order": [int(node.node.node_id) for node in kept], "scores": [float(node.score) for node in kept]}


def text_embeddings_inference():
    ranks = post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": False, "truncate": True})
    return {"order": [rank["index"] for rank in ranks], "scores": [rank["score"] for rank in ranks]}


def jina():
    answer = post("/v1/rerank", {"model": MODEL, "query": QUERY, "documents": DOCUMENTS, "top_n": 2, "return_documents": False})
    return {
        "order": [result["index"] for result in answer["results"]],
        "scores": [result["relevance_score"] for result in answer["results"]],
        "documents": ["document" in result for result in answer["results"]],
    }


def vllm_score():
    answer = post("/v1/score", {"model": MODEL, "text_1": QUERY, "text_2": DOCUMENTS})
    return {"scores": [entry["score"] for entry in answer["data"]]}


def openai_embeddings():
    client = openai.OpenAI(api_key=KEY, base_url=BASE + "/v1")
    inputs = ["Sourdough bread rises slowly.", "My bread does not rise."]
    # The SDK asks for base64 where it is not told otherwise, and decodes it.
    packed = client.embeddings.create(model=EMBEDDER, input=inputs)
    plain = client.embeddings.create(model=EMBEDDER, input=inputs, encoding_format="float")
    short = client.embeddings.create(model=EMBEDDER, input=inputs[0], dimensions=8)
    try:
        client.embeddings.create(model="other", input=inputs)
        unknown = None
    except openai.NotFoundError as error:
        unknown = error.body["message"]
    return {
        "largest_difference": max(
            abs(a - b) for p, q in zip(packed.data, plain.data) for a, b in zip(p.embedding, q.embedding)
        ),
        "length": sum(value * value for value in plain.data[0].embedding),
        "short": [len(short.data[0].embedding), sum(value * value for value in short.data[0].embedding)],
        "tokens": plain.usage.total_tokens,
        "unknown_model": unknown,
        "models": sorted(model.id for model in client.models.list()),
    }


CLIENTS = {
    "cohere_v2": cohere_v2,
    "cohere_v1": cohere_v1,
    "langchain": langchain,
    "llama_index_cohere": lambda: llama_index(LlamaCohereRerank(api_key=KEY, base_url=BASE, model=MODEL, top_n=2)),
    "llama_index_tei": lambda: llama_index(
        TextEmbeddingInference(base_url=BASE, auth_token=f"Bearer {KEY}", model_name=MODEL, top_n=2)
    ),
    "text_embeddings_inference": text_embeddings_inference,
    "jina": jina,
    "vllm_score": vllm_score,
    "openai_embeddings": openai_embeddings,
}

print(json.dumps({name: speak() for name, speak in CLIENTS.items()}))
