// Ollama's own client for JavaScript.

import { Ollama } from "ollama";
import { asksForWeather, embedder, getWeather, hello, key, model, small, sure, thinker, trial, url } from "./trials.mjs";

const client = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const city = { type: "object", properties: { name: { type: "string" }, people: { type: "integer" } }, required: ["name", "people"] };

await trial("lists", async () => {
  const { models } = await client.list();
  sure(models.some((each) => each.model === model), "the model is listed");
});
await trial("shows", async () => sure((await client.show({ model })).details, "details"));
await trial("chat", async () => sure((await client.chat({ model, messages: hello })).message.content, "content"));
await trial("chat streamed", async () => {
  let pieces = 0;
  for await (const piece of await client.chat({ model, messages: hello, stream: true })) pieces += piece.message ? 1 : 0;
  sure(pieces > 1, "pieces");
});
await trial("generate", async () => sure((await client.generate({ model, prompt: "Hello" })).response, "a response"));
await trial("tools", async () => {
  const { message } = await client.chat({ model, messages: asksForWeather, tools: [getWeather] });
  sure(message.tool_calls[0].function.name === "get_weather", "a call");
});
await trial("schema", async () => {
  const { message } = await client.chat({ model, messages: hello, format: city });
  sure(Number.isInteger(JSON.parse(message.content).people), "people");
});
await trial("thinking", async () => {
  sure((await client.chat({ model: thinker, messages: hello, think: true })).message.thinking, "thoughts");
});
await trial("embed", async () => {
  sure((await client.embed({ model: embedder, input: ["one", "two"] })).embeddings.length === 2, "two vectors");
});
await trial("loaded", async () => sure((await client.ps()).models, "a list"));
await trial("pull and delete", async () => {
  let last = null;
  for await (const frame of await client.pull({ model: small, stream: true })) last = frame.status;
  sure(last === "success", "success");
  await client.delete({ model: small });
});
