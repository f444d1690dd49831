// The client `openai` for Node: what it does to conversations and items, and what it makes of errors.

import assert from "node:assert/strict";

import OpenAI, { AuthenticationError, BadRequestError, NotFoundError } from "openai";

const client = new OpenAI({ maxRetries: 0 });
const { conversations } = client;
const { items } = conversations;
const said = (text, role = "user") => ({ type: "message", role, content: text });
const textOf = (item) => item.content[0].text;

const made = await conversations.create({ metadata: { topic: "monads" }, items: [said("zero")] });
assert.equal(made.object, "conversation");
assert.ok(made._request_id);
assert.deepEqual(await conversations.retrieve(made.id), made);
const changed = await conversations.update(made.id, { metadata: { topic: "burritos" } });
assert.deepEqual(changed, { ...made, metadata: { topic: "burritos" } });
assert.deepEqual((await conversations.create()).metadata, {});

const exact = "a\0b \u{1f469}\u200d\u{1f680} \\u0000 \r\n";
const added = await items.create(made.id, { items: [said(exact), said("two", "assistant")] });
assert.deepEqual(added.data.map(textOf), [exact, "two"]);
assert.equal(added.object, "list");
assert.deepEqual([added.first_id, added.last_id, added.has_more], [added.data[0].id, added.data[1].id, false]);
const [one, two] = added.data;
assert.deepEqual(await items.retrieve(two.id, { conversation_id: made.id }), two);
assert.equal((await items.delete(one.id, { conversation_id: made.id })).id, made.id);

const lines = Array.from({ length: 250 }, (_, number) => `line ${number}`);
const long = (await conversations.create()).id;
for (let start = 0; start < lines.length; start += 20) {
  await items.create(long, { items: lines.slice(start, start + 20).map((line) => said(line)) });
}
for (const query of [{ order: "asc" }, { order: "asc", limit: 100 }, { order: "desc", limit: 99 }, {}]) {
  const found = [];
  for await (const item of items.list(long, { ...query, include: ["message.output_text.logprobs"] })) {
    found.push(textOf(item));
  }
  assert.deepEqual(found, query.order === "asc" ? lines : lines.toReversed());
}

async function refused(asked, kind, code, param) {
  const error = await asked.then(() => assert.fail("it was not refused"), (reason) => reason);
  assert.ok(error instanceof kind, `${error}`);
  assert.deepEqual([error.code, error.param, error.type], [code, param, "invalid_request_error"]);
  assert.ok(error.requestID);
}
await refused(items.retrieve(one.id, { conversation_id: made.id }), NotFoundError, null, null);
await refused(items.list(long, { limit: 101 }), BadRequestError, "integer_above_max_value", "limit");
await refused(items.create(long, { items: lines.slice(0, 21).map((line) => said(line)) }), BadRequestError, "array_above_max_length", "items");
await refused(client.withOptions({ apiKey: "sk-nobody" }).conversations.create(), AuthenticationError, "invalid_api_key", null);

assert.deepEqual(await conversations.delete(made.id), { id: made.id, object: "conversation.deleted", deleted: true });
await refused(conversations.retrieve(made.id), NotFoundError, null, null);
console.log("done");
