// The client's responses, and the agents for Node on a conversation, on a response, and on a session.

import assert from "node:assert/strict";

import { Agent, OpenAIConversationsSession, OpenAIResponsesModel, run } from "@openai/agents";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const echo = (text) => `No model is configured. You said: ${text}`;
const saidIn = async (id) => {
  const found = [];
  for await (const item of client.conversations.items.list(id, { order: "asc" })) found.push(item.content[0].text);
  return found;
};

const { id } = await client.conversations.create();
const answer = await client.responses.create({ model: "echo", conversation: id, input: "Zero" });
assert.equal(answer.output_text, echo("Zero"));
assert.deepEqual(answer.conversation, { id });

let grown = "";
for await (const event of await client.responses.create({ model: "echo", conversation: id, input: "One", stream: true })) {
  if (event.type === "response.output_text.delta") grown += event.delta;
}
assert.equal(grown, echo("One"));

const agent = new Agent({ name: "parrot", instructions: "Be brief.", model: new OpenAIResponsesModel(client, "echo") });
assert.equal((await run(agent, "Two", { conversationId: id })).finalOutput, echo("Two"));
const streamed = await run(agent, "Three", { conversationId: id, stream: true });
for await (const _ of streamed);
assert.equal(streamed.finalOutput, echo("Three"));
const turns = ["Zero", "One", "Two", "Three"];
assert.deepEqual(await saidIn(id), turns.flatMap((text) => [text, echo(text)]));

const { lastResponseId } = await run(agent, "Four");
assert.equal((await run(agent, "Five", { previousResponseId: lastResponseId })).finalOutput, echo("Five"));

const session = new OpenAIConversationsSession({ client });
await run(agent, "Six", { session });
await run(agent, "Seven", { session });
assert.deepEqual(await saidIn(await session.getSessionId()), ["Six", "Seven"].flatMap((text) => [text, echo(text)]));
console.log("done");
