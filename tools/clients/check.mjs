// OpenAI's JavaScript client, asking the server whose address is given.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0});
const texts = ["The cat sat on the mat", "A feline rested on the rug", "The stock market crashed today"];
const cosine = (a, b) => {
  const dot = (x, y) => x.reduce((sum, number, index) => sum + number * y[index], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
};

// By default the client asks for base64 and decodes it.
const answer = await client.embeddings.create({model: "small", input: texts});
const [cat, feline, market] = answer.data.map(item => Array.from(item.embedding));
assert.equal(cat.length, 384);
assert(cosine(cat, feline) > 0.5 && cosine(cat, market) < 0.3);
const decimals = await client.embeddings.create({model: "small", input: texts[0], encoding_format: "float"});
assert.deepEqual(decimals.data[0].embedding.map(Math.fround), cat.map(Math.fround));
const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.deepEqual(models, ["small", "ranker"]);
await assert.rejects(client.embeddings.create({model: "other", input: "a"}), OpenAI.NotFoundError);
await assert.rejects(client.embeddings.create({model: "small", input: []}), /input is empty/);
