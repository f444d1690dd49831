// The session of the agents for Node, which keeps its history in a conversation.

import assert from "node:assert/strict";

import { OpenAIConversationsSession } from "@openai/agents";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const session = new OpenAIConversationsSession({ client });
const said = (text) => ({ type: "message", role: "user", content: text });
const textOf = (item) => item.content[0].text;

const lines = Array.from({ length: 50 }, (_, number) => `line ${number}`);
for (let start = 0; start < lines.length; start += 20) {
  await session.addItems(lines.slice(start, start + 20).map(said));
}
assert.deepEqual((await session.getItems()).map(textOf), lines);
assert.deepEqual((await session.getItems(30)).map(textOf), lines.slice(-30));
assert.equal(textOf(await session.popItem()), "line 49");
assert.equal(textOf((await session.getItems(1))[0]), "line 48");

const call = { type: "function_call", callId: "call_1", name: "weather", arguments: '{ "z" : 1.0 }', status: "completed" };
const result = { type: "function_call_result", callId: "call_1", name: "weather", output: { type: "text", text: "rain" }, status: "completed" };
const answer = { type: "message", role: "assistant", status: "completed", content: [{ type: "output_text", text: "It rains." }] };
await session.addItems([call, result, answer]);
const found = await session.getItems(3);
assert.deepEqual(found.map((item) => item.type), ["function_call", "function_call_result", "message"]);
assert.equal(found[0].arguments, call.arguments);
assert.equal(found[2].content[0].text, "It rains.");

const home = await session.getSessionId();
const again = new OpenAIConversationsSession({ conversationId: home, client });
assert.equal((await again.getItems()).length, 52);
await session.clearSession();
assert.deepEqual(await session.getItems(), []);
assert.equal(await session.popItem(), undefined);
assert.notEqual(await session.getSessionId(), home);
console.log("done");
